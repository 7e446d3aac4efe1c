"""Threads that search: one OpenMP thread each, whatever pool they belong to; and work that lets them go first.

OpenMP keeps its thread count per calling thread, so the setting is made where a thread begins and not once for the
process. Knows nothing about what the threads do.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_SHORT_TURN_S = 1e-4
_turns = threading.Lock()
_giving_way: list[float] = []  # the interval before, once for each thread that gives way


def search_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A fixed pool whose threads search with one OpenMP thread each."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_one_openmp_thread)


def _one_openmp_thread() -> None:
    faiss = sys.modules.get("faiss")  # loaded by then if a shard needs it
    if faiss is not None:
        faiss.omp_set_num_threads(1)


@contextmanager
def giving_way() -> Iterator[None]:
    """Python work in the background, during which threads that wait for the interpreter get it at once.

    They would wait for up to 5 ms each time otherwise, several times in one call. The setting is the process's.
    """
    with _turns:
        _giving_way.append(sys.getswitchinterval())
        sys.setswitchinterval(_SHORT_TURN_S)
    try:
        yield
    finally:
        with _turns:
            before = _giving_way.pop()
            if not _giving_way:
                sys.setswitchinterval(before)
