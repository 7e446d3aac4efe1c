"""Run by test_enrich_kill: aggregates a log in forked children, each killed with SIGKILL at one of its file renames.

Prints, one a line, whether each child came to its end; stops with the first that did. Arguments: log, folder of outs.
"""

import os
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path

from index_builders.enrich import log
from index_builders.enrich.aggregate import aggregate, plan_log

log.SLICE_ROWS = 7
COLUMNS = log.LogColumns(text="query", action="action", weight="weight")
NOW = datetime(2026, 1, 31, tzinfo=timezone.utc)


def run(source: Path, out: Path, now: datetime | None = NOW) -> dict:
    plan = plan_log(source, out, column="q", columns=COLUMNS, since_days=30, now=now, partitions=3)
    return aggregate(plan)


def run_killed(source: Path, out: Path, renames: int) -> None:
    real, left = os.replace, [renames]

    def replace(old, new):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        real(old, new)

    os.replace = replace
    run(source, out)


if __name__ == "__main__":
    renames = 0
    while True:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run_killed(Path(sys.argv[1]), Path(sys.argv[2]) / f"{renames:02d}", renames)
                status = 0
            finally:
                os._exit(status)
        status = os.waitpid(child, 0)[1]
        print(status, flush=True)
        if status != signal.SIGKILL:
            break
        renames += 1
