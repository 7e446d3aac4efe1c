"""Threads that search: one OpenMP thread each, whatever pool they belong to.

OpenMP keeps its thread count per calling thread, so the setting is made where a thread begins and not once for the
process. Knows nothing about what the threads do.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor


def search_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A fixed pool whose threads search with one OpenMP thread each."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_one_openmp_thread)


def _one_openmp_thread() -> None:
    faiss = sys.modules.get("faiss")  # loaded by then if a shard needs it
    if faiss is not None:
        faiss.omp_set_num_threads(1)
