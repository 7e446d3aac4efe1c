"""`retrieval bench recall-latency`: data x engine x build x effort, each in a process of its own, into raw rows.

    retrieval bench recall-latency --data clustered:500000x256 --engines hnsw ivfpq hnswlib scann --out DIR
    retrieval bench report DIR

WORK (beside OUT unless given) keeps data, exact answers and indexes; a command that was stopped goes on where it was.
Engines that are not installed are rows with that reason: `pip install 'retrieval[peers]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.arguments import parser_of
from bench.recall_latency.data import check_order, make_data
from bench.recall_latency.engines.interface import ENGINES, engine_class
from bench.recall_latency.rows import read_all
from bench.recall_latency.sweep import MODES, Plan, Sweep
from bench.recall_latency.truth import true_scores
from retrieval.cli.progress import progress_printer
from retrieval.errors import InvalidParams


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, then say where the rows are."""
    args = _parse(arguments)
    plan = Plan(
        engines=tuple(ENGINES) if args.engines == ["all"] else tuple(args.engines),
        ks=tuple(sorted(set(args.k))),
        modes=tuple(args.modes),
        repeats=args.repeats,
        efforts=args.efforts,
        budget_s=args.budget_s,
        limit_s=args.limit_s,
        again=tuple(args.again),
        builds=_by_engine("--build", args.build),
        given_efforts=_by_engine("--effort", args.effort),
    )
    for name in (*plan.engines, *plan.builds, *plan.given_efforts):
        engine_class(name)  # a mistyped name is told before an hour of data
    for order in args.data:
        check_order(order)
    work = (args.work or args.out.with_name(args.out.name + ".work")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with progress_printer("recall-latency") as progress, _ended_in_order():
        for order in args.data:
            data = make_data(order, work, queries=args.queries, progress=progress)
            for k in plan.ks:
                if k > data.n:
                    print(f"k = {k:,} is more than the {data.n:,} rows of {data.name}: not measured there")
            true = true_scores(data, max(plan.ks), work, progress)
            Sweep(plan, data, true, work, args.out, progress).run()
    rows = read_all(args.out)
    failed = sorted({f"{row['engine']} {row['build']}: {row['reason']}" for row in rows if row["reason"]})
    for line in failed:
        print(f"could not run: {line}")
    print(f"{len(rows)} rows in {args.out / 'rows'}; retrieval bench report {args.out} makes the report")
    print(
        json.dumps(
            {"rows": len(rows), "out": str(args.out), "failed": failed, "seconds": round(time.monotonic() - began, 1)}
        )
    )
    if all(row["reason"] for row in rows):
        raise SystemExit(1)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends this command as Ctrl-C does, and with it the child of the moment."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _by_engine(option: str, texts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Parameters by engine; values are JSON, or text where they are none. InvalidParams for what is no such line."""
    found: dict[str, list[dict[str, Any]]] = {}
    for text in texts:
        name, mark, body = text.rpartition(":")
        pairs = [part.partition("=") for part in body.split(",")]
        if not mark or any(not key or not sign for key, sign, _ in pairs):
            raise InvalidParams(
                f"{option} {text!r} is not acceptable: write ENGINE:NAME=VALUE,NAME=VALUE, for example hnsw:m=24"
            )
        found.setdefault(name, []).append({key: _value(value) for key, _, value in pairs})
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("recall-latency", __doc__)
    add = parser.add_argument
    add("--data", nargs="+", required=True, help="sets, each a line such as clustered:20000x64; see docs/measuring.md")
    add("--engines", nargs="+", default=["all"], help=f"all, or of {', '.join(ENGINES)}, or module:Class")
    add("--out", type=Path, required=True, help="folder of the rows")
    add("--work", type=Path, help="folder of data, exact answers and indexes; OUT.work unless given")
    add("--queries", type=int, default=300, help="of each set; more make p99 worth more")
    add("--k", type=int, nargs="+", default=[10, 100, 1_000], help="answers asked for")
    add("--modes", nargs="+", default=list(MODES[:3]), choices=MODES, help="one query a call, or all; threads")
    add("--repeats", type=int, default=3, help="runs of each engine, in turns")
    add("--efforts", type=int, default=0, help="at most so many settings of each engine and k; 0: all")
    add("--build", action="append", default=[], metavar="ENGINE:NAME=VALUE,…", help="instead of its own; repeatable")
    add("--effort", action="append", default=[], metavar="ENGINE:NAME=VALUE,…", help="instead of its list; repeatable")
    add("--budget-s", type=float, default=2.0, help="time of one setting; a slow engine answers fewer queries")
    add("--limit-s", type=float, default=3_600.0, help="time of one build or run, after which it is ended")
    add("--again", nargs="+", default=[], help="engines whose finished runs are measured again")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
