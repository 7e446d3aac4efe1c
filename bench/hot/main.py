"""Hot paths beside a reference of the same run, held to a stored baseline: python -m bench.hot.main.

Merge, rescore, filter, encode and the wire codec are timed by pytest-benchmark, each beside plain numpy, Arrow, torch
or protobuf work of the same size. What is compared with the baseline is the ratio of the two medians: seconds change
with the machine and its neighbours, the ratio far less. A ratio that exceeds --most times its baseline fails with exit
status 1. --accept stores this run's ratios as the baseline. The last line is one JSON object.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.arguments import COUNT, check, parser_of
from retrieval.errors import BuildFailed, InvalidParams, MissingDependency

FOLDER = Path(__file__).parent
BASELINE = FOLDER / "baseline.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Time, compare, print."""
    parser = parser_of("hot", __doc__)
    parser.add_argument("--most", type=float, default=1.5, help="a ratio this many times its baseline's fails")
    parser.add_argument("--repeats", type=int, default=3, help="runs of all benchmarks; each ratio is the median one")
    parser.add_argument("--accept", action="store_true", help="store this run's ratios as the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    chosen = parser.parse_args(arguments)
    check(chosen, most=(1.0, 1_000.0), repeats=COUNT)
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise MissingDependency("the benchmarks need pytest-benchmark: pip install 'retrieval[dev]'")
    found = middle([ratios(_timed()) for _ in range(chosen.repeats)])
    if chosen.accept:
        chosen.baseline.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    before = read_baseline(chosen.baseline)
    slower = compare(found, before, chosen.most)
    print(f"{'path':12}{'us':>10}{'reference us':>14}{'ratio':>9}{'baseline':>10}")
    for name, each in found.items():
        print(
            f"{name:12}{each['us']:10.1f}{each['reference_us']:14.1f}{each['ratio']:9.3f}{before[name]['ratio']:10.3f}"
        )
    for sentence in slower:
        print(sentence, file=sys.stderr)
    print(json.dumps({"paths": found, "slower": slower}))
    if slower:
        raise SystemExit(1)


def ratios(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Path -> microseconds, those of the reference, and their ratio, from pytest-benchmark's JSON (medians)."""
    medians: dict[str, dict[str, float]] = {}
    for each in report["benchmarks"]:
        medians.setdefault(each["group"], {})[each["name"]] = 1e6 * each["stats"]["median"]
    found = {}
    for group, times in sorted(medians.items()):
        if set(times) != {"test_ours", "test_reference"}:
            raise BuildFailed(f"the benchmarks of {group!r} are {sorted(times)}, not test_ours and test_reference")
        ours, reference = times["test_ours"], times["test_reference"]
        found[group] = {
            "us": round(ours, 2),
            "reference_us": round(reference, 2),
            "ratio": round(ours / reference, 4),
        }
    return found


def middle(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of each path the run with the median ratio (the lower one of an even number)."""
    place = (len(runs) - 1) // 2
    return {name: sorted((run[name] for run in runs), key=lambda each: each["ratio"])[place] for name in runs[0]}


def read_baseline(path: Path) -> dict[str, dict[str, float]]:
    """The stored ratios; InvalidParams when there are none."""
    try:
        stored: dict[str, dict[str, float]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidParams(f"{path} is not a baseline ({error}): make one with --accept") from None
    return stored


def compare(found: dict[str, dict[str, float]], before: dict[str, dict[str, float]], most: float) -> list[str]:
    """A sentence for each path whose ratio is over `most` times its baseline's; InvalidParams for other paths."""
    if set(found) != set(before):
        raise InvalidParams(
            f"the baseline has {sorted(before)}, this run {sorted(found)}: store a new one with --accept"
        )
    return [
        f"{name} takes {each['ratio']:.3f} times its reference, {each['ratio'] / before[name]['ratio']:.2f} times the "
        f"baseline's {before[name]['ratio']:.3f}; the limit is {most:g}"
        for name, each in found.items()
        if each["ratio"] > most * before[name]["ratio"]
    ]


def _timed() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "--rootdir", str(FOLDER), "-c", "/dev/null"]
        command += ["-o", "python_files=*_bench.py", "-p", "no:cacheprovider", "--import-mode=importlib"]
        command += ["--benchmark-json", str(report), "--benchmark-max-time=0.5", "--benchmark-warmup=on"]
        command += ["--benchmark-columns=median", "--benchmark-disable-gc"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildFailed(f"the benchmarks failed: {done.stdout[-2_000:]}{done.stderr[-500:]}")
        loaded: dict[str, Any] = json.loads(report.read_text())
        return loaded


if __name__ == "__main__":
    main()
