"""Run by test_kill: for each seed read from stdin, builds in a forked child whose process id it prints.

Forked from a process that has done its imports, so that the killed moments fall into the build and cost no start-up.
Arguments: source, store.
"""

import os
import sys
from pathlib import Path

from index_builders import add, publish, queries, source, spool, verify  # noqa: F401
from index_builders.build import build
from index_builders.settings import make_settings
from retrieval.indexes import flat  # noqa: F401


def build_once(seed: int) -> None:
    settings = make_settings(
        source=Path(sys.argv[1]),
        store=Path(sys.argv[2]),
        entity_type="pin",
        kind="flat",
        shards=12,
        workers=0,
        verify_queries=10,
        keep=2,
        seed=seed,
    )
    build(settings)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                build_once(int(line))
                status = 0
            finally:
                os._exit(status)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
