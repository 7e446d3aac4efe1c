"""Recipes: each stage is done once, a stopped one goes on, and nothing of another's work is overwritten."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_recipe import Tiny

from retrieval import catalogue
from retrieval.errors import DamagedData, InvalidArgument, InvalidData, InvalidParams, SpaceMismatch
from retrieval.spaces import check_compatible
from retrieval.towers.checkpoint import read_checkpoint
from retrieval.towers.query import QueryTower
from retrieval.training.config import read_config
from retrieval.training.recipes import named
from retrieval.training.recipes.named import RECIPES, Recipe, stored_held_out
from retrieval.training.recipes.run import run_recipe
from retrieval.training.sources.tables import held_out_key


class Stopped(Exception):
    pass


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    made = Tiny(tmp_path / "tiny")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "base.txt").write_text("there")
    monkeypatch.setitem(named.RECIPES, "tiny", made.recipe)
    return made


def run(tmp_path: Path, out: str = "out", **more: Any) -> Any:
    return run_recipe("tiny", tmp_path / out, data=tmp_path / "data", **more)


def test_a_recipe_makes_a_tower_whose_queries_may_search_the_space_before(tiny: Tiny, tmp_path: Path) -> None:
    result = run(tmp_path)
    before = read_checkpoint(tmp_path / "out" / "zero_shot").config.space_id
    assert result.trained
    assert result.compatible == (before,)
    check_compatible(result.space_id, before, result.compatible)
    with pytest.raises(SpaceMismatch, match="cannot search"):
        check_compatible(before, result.space_id)
    assert set(result.validation) == {"things"}
    entities = pq.read_table(tmp_path / "out" / "tables" / "icecat" / "entities.parquet")
    assert entities.column("text_embedding").null_count == entities.column("zero_shot").null_count == 1


def test_training_starts_in_the_space_before(tiny: Tiny, tmp_path: Path) -> None:
    result = run(tmp_path, overrides={"run.steps": 1, "run.learning_rate": 1e-9})
    new, old = (
        QueryTower.load(path).encode(["red chair", "blue lamp"])
        for path in (result.tower, tmp_path / "out" / "zero_shot")
    )
    np.testing.assert_allclose(new, old, atol=1e-3)


def test_the_frozen_task_gets_the_pairs_of_its_task(tiny: Tiny, tmp_path: Path) -> None:
    run(tmp_path)
    rows = pq.read_table(tmp_path / "out" / "tables" / "pairs.parquet").to_pylist()
    by_task = {
        task: [(row["query"], row["id"]) for row in rows if row["task"] == task] for task in ("things", "things_before")
    }
    assert by_task["things"] == by_task["things_before"] != []


def test_judged_queries_are_left_out_of_every_source(tiny: Tiny, tmp_path: Path) -> None:
    run(tmp_path)
    tables = tmp_path / "out" / "tables"
    assert "Desk" in pq.read_table(tables / "icecat" / "pairs.parquet").column("query").to_pylist()
    assert "Desk" not in pq.read_table(tables / "pairs.parquet").column("query").to_pylist()


def test_a_second_run_does_nothing_again(tiny: Tiny, tmp_path: Path) -> None:
    first = run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    second = run(tmp_path)
    assert not second.trained
    assert tiny.prepared == 1
    assert (second.space_id, second.validation, second.steps) == (first.space_id, first.validation, 6)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("stage", ["encode icecat", "read tables", "train"])
def test_a_stopped_run_goes_on_and_makes_the_same(tiny: Tiny, tmp_path: Path, stage: str) -> None:
    def stop(name: str, done: int, total: int) -> None:
        if name == stage and done >= total // 2:
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path, progress=stop)
    steps: list[int] = []
    result = run(tmp_path, on_step=steps.append)
    assert tiny.prepared == 1
    assert steps[0] == (3 if stage == "train" else 1)  # a state is saved every second step
    assert result.space_id == run(tmp_path, "straight").space_id


def test_half_prepared_tables_are_prepared_again(tiny: Tiny, tmp_path: Path) -> None:
    partial = tmp_path / "out" / "tables" / "icecat.partial"
    with pytest.raises(Stopped):
        run(tmp_path, progress=lambda name, done, total: (_ for _ in ()).throw(Stopped))
    partial.mkdir(parents=True)
    (partial / "entities.parquet").write_text("half a table")
    assert run(tmp_path).trained
    assert not partial.exists()


def test_work_of_others_is_left_alone(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, overrides={"run.steps": 2})
    monkeypatch.setitem(
        named.RECIPES,
        "other",
        Recipe(name="other", settings_file=tiny.recipe.settings_file, sources=tiny.recipe.sources),
    )
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(InvalidArgument, match="holds the work of recipe 'tiny', not of 'other'"):
        run_recipe("other", tmp_path / "out", data=tmp_path / "data")
    with pytest.raises(InvalidArgument, match=r"was made with --set run.steps=2, now it is nothing"):
        run(tmp_path)
    settings = tiny.recipe.settings_file
    settings.write_text(settings.read_text() + "seed = 3\n")
    with pytest.raises(InvalidArgument, match="another version of recipe 'tiny'"):
        run(tmp_path, overrides={"run.steps": 2})
    assert sorted((tmp_path / "out").rglob("*")) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InvalidArgument, match="holds files that are no recipe's work"):
        run(tmp_path, "mine")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "recipe.json").write_text("{")
    with pytest.raises(DamagedData, match="is not the record of a recipe"):
        run(tmp_path, "bad")


def test_bad_input_is_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InvalidParams, match=r"there is no recipe 'dema': choose demo or real or tiny"):
        run_recipe("dema", out)
    with pytest.raises(InvalidParams, match=r"reads base.txt for icecat: name the folder that holds it with --data"):
        run_recipe("tiny", out)
    with pytest.raises(InvalidData, match=r"base.txt does not exist: recipe 'tiny' needs it for icecat"):
        run_recipe("tiny", out, data=tmp_path)
    with pytest.raises(InvalidParams, match=r"there is no setting 'run.stepz'"):
        run(tmp_path, overrides={"run.stepz": 1})
    with pytest.raises(InvalidParams, match=r"--set data.pairs is not acceptable"):
        run(tmp_path, overrides={"data.pairs": "mine.parquet"})
    assert not out.exists()


@pytest.mark.parametrize("name", ["demo", "real"])
def test_the_settings_of_a_recipe_fit_its_sources(name: str) -> None:
    recipe = RECIPES[name]
    tables: dict[str, Any] = {"data.entities": ["entities.parquet"], "data.pairs": "pairs.parquet"}
    settings = read_config(recipe.settings_file, tables | {"data.validation": "validation.parquet"})
    asked = {task.removesuffix("_before") for task in settings.tasks} - {"related", "flickr_de"}
    assert asked == set(recipe.sources)
    assert all(stored_held_out(source) for source in recipe.sources)


def test_the_judged_queries_are_on_the_stored_list() -> None:
    keys = stored_held_out("icecat")
    assert {held_out_key(query) for query in catalogue.judgments().column("query").to_pylist()} <= keys


def test_a_damaged_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "_FOLDER", tmp_path)
    with pytest.raises(DamagedData, match="cannot be read"):
        stored_held_out("icecat")
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out" / "icecat.txt").write_text("0123456789abcdef\nred chair\n")
    with pytest.raises(DamagedData, match="has 'red' where 16 hexadecimal digits are"):
        stored_held_out("icecat")
