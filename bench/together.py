"""All measurements one after another, each in a process of its own, with what they printed kept as one report.

OUT/report.md has the output of each under the command that made it, OUT/figures.jsonl its last line, with the
machine and the load average it began with. A measurement that fails is told and does not stop the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.recall_latency.machine import commit, machine
from retrieval.errors import InvalidParams


@dataclass(frozen=True)
class Measurement:
    """quick: arguments that keep all of them together under 15 minutes on 2 cores, None for one that takes longer by
    itself; full: arguments of the whole measurement, None for one that needs data which is not shipped. {out} in them
    is the folder of the report. report: what makes tables and plots of the folder `{out}/name` afterwards.
    """

    name: str
    module: str
    line: str
    quick: tuple[str, ...] | None
    full: tuple[str, ...] | None = ()
    report: str | None = None


_LARGE = ("--rows", "500000")
_SOME_ENGINES = (
    *("--data", "clustered:50000x128", "--k", "100", "--queries", "200", "--efforts", "4", "--repeats", "2"),
    *("--engines", "flat", "hnsw", "ivfpq", "hnswlib", "faiss-hnsw", "faiss-ivfpq", "--out", "{out}/recall-latency"),
)
_ALL_ENGINES = (
    *("--data", "clustered:500000x256", "--engines", "all", "--k", "100"),
    *("--modes", "single:1", "batch:1", "single:all", "batch:all", "--out", "bench/reports/recall-latency"),
)
MEASUREMENTS = (
    Measurement(
        "kernel",
        "bench.kernel_vs_hnswlib",
        "Graph search beside hnswlib on the same graph.",
        ("--rows", "100000"),
        _LARGE,
    ),
    Measurement(
        "ivfpq", "bench.ivfpq_vs_faiss", "IVF-PQ search beside faiss with its own refine.", ("--rows", "100000"), _LARGE
    ),
    Measurement("build", "bench.build_hnsw", "Building HNSW shards beside bare hnswlib.", ("--rows", "50000"), _LARGE),
    Measurement("towers", "bench.towers", "What one query, a batch of queries and entities cost to encode.", ()),
    Measurement("encode", "bench.encode_path", "Query texts through cache and batches, beside the tower alone.", ()),
    Measurement("filters", "bench.filters", "Filtered search beside unfiltered, both kinds.", ("--rows", "50000")),
    Measurement(
        "life", "bench.life", "Recall and time with rows deleted and fresh ones, and reopened.", ("--rows", "50000")
    ),
    Measurement("grouped", "bench.grouped", "Concurrent searches one by one and grouped.", ("--rows", "50000")),
    Measurement("fleet", "bench.fleet", "A broker over leaves with one in trouble, and hedging.", ()),
    Measurement("hot", "bench.hot.main", "Hot paths beside a reference of the same run, held to a baseline.", ()),
    Measurement(
        "delta",
        "bench.delta",
        "Durable upserts a second, and searches beside them.",
        ("--rows", "30000", "--seconds", "3"),
    ),
    Measurement(
        "rebuild", "bench.rebuild", "A rebuild with 1 % changed rows beside the full build.", ("--rows", "50000")
    ),
    Measurement("grpc", "bench.grpc_overhead", "What a gRPC call costs beyond the index search.", ("--rows", "50000")),
    Measurement(
        "swaps",
        "bench.swaps",
        "Hot swaps under load: answers, p99 beside steady, memory.",
        ("--rows", "20000", "--rate", "100", "--swaps", "10", "--steady", "5"),
        ("--swaps", "100"),
    ),
    Measurement("load", "bench.load", "Open-loop load on a server: saturation, latency, overload.", None),
    Measurement(
        "capacity",
        "bench.capacity.main",
        "Cores, hosts and money for a rate, from the costs of the report in bench/reports/capacity.",
        ("--requests", "1000", "--out", "{out}/capacity"),
        ("--requests", "3000", "--out", "{out}/capacity"),
    ),
    Measurement(
        "recall-latency",
        "bench.recall_latency.main",
        "Indexes and vector databases over the same data.",
        _SOME_ENGINES,
        _ALL_ENGINES,
        report="bench.recall_latency.report",
    ),
    Measurement(
        "unified",
        "bench.unified.main",
        "Every study of the unified model, trained and measured.",
        None,
        None,
    ),
)


def run(*, full: bool, only: Sequence[str], out: Path) -> int:
    """Run and report; 1 when a measurement failed. InvalidParams for a name that there is not."""
    names = [each.name for each in MEASUREMENTS]
    for name in only:
        if name not in names:
            raise InvalidParams(f"--only {name!r} is no measurement; there are: {', '.join(names)}")
    chosen = [each for each in MEASUREMENTS if each.name in only or not only]
    out.mkdir(parents=True, exist_ok=True)
    rows, parts, failed = [], [], []
    for each in chosen:
        arguments = each.full if full else each.quick
        if arguments is None:
            continue
        arguments = tuple(argument.format(out=out) for argument in arguments)
        command = ["retrieval", "bench", each.name, *arguments]
        print(f"\n== {' '.join(command)}", flush=True)
        began, load = time.perf_counter(), os.getloadavg()[0]
        status, printed = _printed([sys.executable, "-m", each.module, *arguments])
        figures = _figures(status, printed)
        if each.report and not status:
            status, printed = _printed([sys.executable, "-m", each.report, arguments[arguments.index("--out") + 1]])
        seconds = round(time.perf_counter() - began, 1)
        if status:
            failed.append(each.name)
        lines = printed.rstrip().splitlines() or [""]
        rows.append(
            {
                "name": each.name,
                "command": command,
                "seconds": seconds,
                "load": load,
                "status": status,
                "figures": figures,
            }
        )
        text = "\n".join(lines[:-1] if lines[-1].startswith("{") else lines)
        parts.append(f"## {each.line}\n\n`{' '.join(command)}` ({seconds:.0f} s)\n\n```\n{text}\n```\n")
    about = json.dumps({"commit": commit(), **machine()})
    (out / "figures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / "report.md").write_text(f"# Figures as printed\n\n`{about}`\n\n" + "\n".join(parts))
    print(json.dumps({"report": str(out / "report.md"), "measured": len(rows), "failed": failed}))
    return 1 if failed else 0


def _figures(status: int, printed: str) -> dict[str, Any]:
    lines = printed.rstrip().splitlines() or [""]
    return json.loads(lines[-1]) if not status and lines[-1].startswith("{") else {}


def _printed(command: Sequence[str]) -> tuple[int, str]:
    """Exit status and standard output of a command, shown as it comes."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)
