"""The report of stored rows: the same bytes for the same rows, whatever made them; rows that resume; bad rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.unified.figures import figure, verdict
from bench.unified.main import main
from bench.unified.rows import ROWS_FILE, Row, Rows
from bench.unified.studies import STUDIES, TEXT_ORDER
from retrieval.errors import DamagedData, InvalidData, InvalidParams

GOLDEN = Path(__file__).parent / "golden_unified"


def row(study: str, variant: str, mean: float, **more: Any) -> Row:
    known = {
        "study": study, "variant": variant, "seed": 0, "system": "trained", "task": "homedepot", "prefix": 256,
        "metric": "recall@10", "mean": mean, "low": mean - 0.02, "high": mean + 0.02, "queries": 40, "seconds": 20.0,
        "settings": {"sets": ["homedepot"]},
    }  # fmt: skip
    return {**known, **more}


def test_the_report_of_stored_rows_is_stable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    (tmp_path / ROWS_FILE).write_bytes((GOLDEN / ROWS_FILE).read_bytes())
    main(["--out", str(tmp_path), "--report-only"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (tmp_path / "report.md").read_text() == (GOLDEN / "report.md").read_text()
    assert summary["rows"] == len((GOLDEN / ROWS_FILE).read_text().splitlines())
    assert {Path(plot).name for plot in summary["plots"]} == {f"{s}.{e}" for s in STUDIES for e in ("png", "svg")}
    drawn = {plot: Path(plot).read_bytes() for plot in summary["plots"]}
    main(["--out", str(tmp_path), "--report-only"])
    assert {plot: Path(plot).read_bytes() for plot in summary["plots"]} == drawn


def test_a_run_is_finished_when_its_rows_are_there(tmp_path: Path) -> None:
    rows, settings = Rows(tmp_path), {"sets": ["homedepot"]}
    assert not rows.finished("ablations", "base", 0, settings)
    rows.replace("ablations", "base", 0, [row("ablations", "base", 0.5)])
    rows.replace("ablations", "base", 0, [row("ablations", "base", 0.6)])  # again: replaced, not added
    again = Rows(tmp_path)
    assert [found["mean"] for found in again.rows] == [0.6]
    assert again.finished("ablations", "base", 0, settings)
    assert not again.finished("ablations", "base", 1, settings)
    assert not again.finished("ablations", "base", 0, {"sets": ["tate"]})  # other settings: made again
    again.replace("ablations", "tower", 0, [row("ablations", "tower", 0.7, settings={"space_id": "sp1-0"})])
    again.forget_others("ablations", {"without boards"})
    assert [found["variant"] for found in Rows(tmp_path).rows] == ["tower"]


def test_a_difference_within_the_spread_is_no_verdict() -> None:
    def over(*means: float) -> Any:
        return figure([row("ablations", "x", mean, seed=seed) for seed, mean in enumerate(means)])

    base = over(0.50, 0.51, 0.52)
    assert verdict(over(0.495, 0.51, 0.525), base) == "within the spread"
    assert verdict(over(0.40, 0.41, 0.42), base) == "the part helps"
    assert verdict(over(0.60, 0.61, 0.62), base) == "the part hurts"
    assert verdict(over(0.4), base) == "one seed: no verdict"
    assert base.with_spread() == "0.5100 ± 0.0100"


def test_every_variant_is_a_different_training_with_features_and_tasks() -> None:
    for name, study in STUDIES.items():
        names = [variant.name for variant in study.variants]
        assert len(set(names)) == len(names)
        for variant in study.variants:
            assert variant.study == name
            assert variant.texts
            assert set(variant.texts) <= set(TEXT_ORDER)
            assert not set(variant.without) & set(variant.texts)
            assert any(task.get("answer") != "query" for task in variant.tasks.values()) or "alike" in variant.name
        distinct = {json.dumps(variant.settings(), sort_keys=True) for variant in study.variants}
        assert len(distinct) == len(names)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"has no rows: run the studies first"):
        main(["--out", str(tmp_path), "--report-only"])
    with pytest.raises(InvalidParams, match=r"--add 'x' is not acceptable"):
        main(["--out", str(tmp_path), "--report-only", "--add", "x"])
    with pytest.raises(DamagedData, match=r"is no report of `retrieval evaluate --out`"):
        main(["--out", str(tmp_path), "--report-only", "--add", f"x={tmp_path / 'none.json'}"])
    with pytest.raises(InvalidParams, match=r"--seeds 0 is not acceptable"):
        main(["--out", str(tmp_path), "--seeds", "0"])
    (tmp_path / ROWS_FILE).write_text('{"study": 1}\n')
    with pytest.raises(DamagedData, match=r"line 1 of .* is not a row of figures"):
        main(["--out", str(tmp_path), "--report-only"])
