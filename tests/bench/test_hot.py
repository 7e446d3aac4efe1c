"""The comparison of hot paths with their baseline: ratios, not seconds, decide."""

import json
from pathlib import Path

import pytest

from bench.hot import main as hot
from retrieval.errors import BuildFailed, InvalidParams


def report(**medians: tuple[float, float]) -> dict[str, object]:
    return {
        "benchmarks": [
            {"group": group, "name": name, "stats": {"median": seconds}}
            for group, times in medians.items()
            for name, seconds in zip(("test_ours", "test_reference"), times, strict=True)
        ]
    }


def test_a_slower_machine_changes_no_ratio_and_a_slower_path_does() -> None:
    before = hot.ratios(report(merge=(20e-6, 10e-6), wire=(5e-6, 1e-6)))
    assert before["merge"] == {"us": 20.0, "reference_us": 10.0, "ratio": 2.0}
    assert hot.compare(hot.ratios(report(merge=(60e-6, 30e-6), wire=(5e-6, 1e-6))), before, 1.2) == []
    (sentence,) = hot.compare(hot.ratios(report(merge=(26e-6, 10e-6), wire=(5e-6, 1e-6))), before, 1.2)
    assert sentence.startswith("merge takes 2.600 times its reference, 1.30 times the baseline's 2.000")


def test_one_disturbed_run_of_three_does_not_count() -> None:
    runs = [hot.ratios(report(merge=(ours, 10e-6))) for ours in (20e-6, 90e-6, 21e-6)]
    assert hot.middle(runs)["merge"]["ratio"] == pytest.approx(2.1)


def test_the_stored_baseline_has_every_suite() -> None:
    suites = {path.name.removesuffix("_bench.py") for path in hot.FOLDER.glob("*_bench.py")}
    assert set(hot.read_baseline(hot.BASELINE)) == suites


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match=r"is not a baseline .*: make one with --accept"):
        hot.read_baseline(tmp_path / "none.json")
    with pytest.raises(InvalidParams, match=r"the baseline has \['wire'\], this run \['merge'\]"):
        hot.compare(hot.ratios(report(merge=(1, 1))), hot.ratios(report(wire=(1, 1))), 1.5)
    alone = json.loads(json.dumps(report(merge=(1, 1))))
    alone["benchmarks"].pop()
    with pytest.raises(BuildFailed, match=r"the benchmarks of 'merge' are \['test_ours'\]"):
        hot.ratios(alone)
    with pytest.raises(InvalidParams, match=r"--most 0\.5 is not acceptable: give 1\.0 to 1,000"):
        hot.main(["--most", "0.5"])
