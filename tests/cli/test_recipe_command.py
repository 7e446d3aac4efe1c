"""The command `recipe` and the demo's tower, on a recipe that takes seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_recipe import Tiny

from retrieval import catalogue
from retrieval.cli import main
from retrieval.cli.demo_tower import ProductTower, served_tables
from retrieval.towers.entity import EntityTower
from retrieval.training.recipes import named
from retrieval.training.recipes.run import RecipeResult, run_recipe


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["retrieval", "recipe", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(named.RECIPES, "tiny", Tiny(tmp_path / "tiny").recipe)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "base.txt").write_text("there")
    return tmp_path / "data"


def test_one_command_trains_and_the_next_finds_it_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("tiny", "--data", data, "--out", tmp_path / "out", "--set", "run.steps=2", "--json")
    assert command(monkeypatch, *words) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert command(monkeypatch, *words) == 0
    second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (first["trained"], second["trained"]) == (True, False)
    assert first["steps"] == second["steps"] == 2
    assert first["space_id"] == second["space_id"]
    assert len(first["compatible"]) == 1


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "dema", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == "retrieval: there is no recipe 'dema': choose demo or real\n"
    assert command(monkeypatch, "real", "--data", tmp_path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "homedepot_products.parquet does not exist" in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> RecipeResult:
    return run_recipe("tiny", tmp_path / "out", data=data)


def test_the_demo_takes_the_recipes_encoded_texts_and_gives_the_same_vectors(
    trained: RecipeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entities = pq.read_table(tmp_path / "out" / "tables" / "icecat" / "entities.parquet")
    plain = entities.select(["id", "title"]).slice(0, 6)
    expected = EntityTower.load(trained.tower, precision="auto").encode(plain)
    tower = ProductTower.of(trained)
    other = tower.encode(pa.table({"id": ["unknown"], "title": ["a red chair for the house"]}))
    monkeypatch.setattr("retrieval.towers.encoder.Encoder.encode", lambda *a, **k: pytest.fail("encoded again"))
    np.testing.assert_allclose(tower.encode(plain), expected, atol=5e-3)  # bfloat16 depends a little on the batch
    assert other.shape == (1, 16)


def test_pins_are_served_with_all_their_tags_and_products_with_attributes_as_words() -> None:
    tables = served_tables(20)
    assert tables["pin"].column("tags").to_pylist() == catalogue.pins(20).column("tags").to_pylist()
    assert tables["product"].schema.field("attributes").type == pa.list_(pa.string())
    assert "entity_type" not in tables["pin"].column_names
