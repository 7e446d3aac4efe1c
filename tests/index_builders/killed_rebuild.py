"""Run by test_rebuild_kill: for each line "job file, moment" read from stdin, rebuilds in a forked child.

Moment: seconds after which the parent kills the child (the child only prints its id), or the number of the write at
which the child ends itself without any clean-up. The stage it is in stands in the file `stage` beside the job's.
"""

import os
import sys
from pathlib import Path

from index_builders import add, bands, calibrate, estimate, frontiers, publish, queries, source, spool, verify  # noqa: F401
from index_builders import build as build_module  # noqa: F401
from index_builders.rebuild import read_job, rebuild
from index_builders.rebuild import run as _run_module  # noqa: F401
from retrieval.indexes import flat  # noqa: F401


def die_at(number: int) -> None:
    """End the process at the `number`-th rename or link of a file: every edge of every stage is one."""
    seen = 0

    def counted(real):
        def wrapped(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == number:
                os._exit(9)
            return real(*args, **kwargs)

        return wrapped

    os.rename, os.replace, os.link = counted(os.rename), counted(os.replace), counted(os.link)


def hasten() -> None:
    """Spend no time on figures that these tests do not look at."""
    bands.LEAST_S = frontiers.DEEP_LEAST_S = 0.01
    speeds = calibrate.Speeds(byte_s=1e-9, multiply_s=1e-9, score_s=1e-9)
    estimate.calibrate = lambda *_, **__: speeds


if __name__ == "__main__":
    hasten()
    for line in sys.stdin:
        job, number = line.split()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if int(number):
                    die_at(int(number))
                told = os.open(Path(job).with_name("stage"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

                def note(stage: str, done: int, total: int, told: int = told) -> None:
                    os.write(told, f"{stage}\n".encode())

                rebuild(read_job(Path(job)), progress=note)
                status = 0
            finally:
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
