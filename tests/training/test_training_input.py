"""Bad input of a training: one sentence each, an exit code, and nothing written over. And the look at a bad step."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_training import write_all

from retrieval.cli.app import main
from retrieval.errors import (
    BuildFailed,
    DamagedData,
    FailedPrecondition,
    InvalidData,
    InvalidParams,
    MissingDependency,
    RetrievalError,
    StoreError,
)
from retrieval.towers import entity_parts
from retrieval.towers.checkpoint import read_checkpoint
from retrieval.towers.entity import EntityTower
from retrieval.training import state
from retrieval.training.config import make_settings
from retrieval.training.ranks import Ranks
from retrieval.training.trainer import STATE_FILE, Trainer


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    return write_all(tmp_path)


def change(table: str, make: Callable[[pa.Table], pa.Table]) -> Callable[[dict[str, Any], Path], None]:
    def apply(body: dict[str, Any], folder: Path) -> None:
        path = folder / f"{table}.parquet"
        pq.write_table(make(pq.read_table(path)), path)

    return apply


def put(*names: str, value: Any) -> Callable[[dict[str, Any], Path], None]:
    def apply(body: dict[str, Any], folder: Path) -> None:
        at = body
        for name in names[:-1]:
            at = at[name]
        at[names[-1]] = value

    return apply


def column(name: str, values: Callable[[pa.Table], Any]) -> Callable[[pa.Table], pa.Table]:
    def make(table: pa.Table) -> pa.Table:
        if name in table.column_names:
            return table.set_column(table.column_names.index(name), name, values(table))
        return table.append_column(name, values(table))

    return make


def first(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    """Column `name` with `value` in its first row."""
    return column(name, lambda t: pa.array([value, *t[name].to_pylist()[1:]], t.schema.field(name).type))


def numbers(table: pa.Table) -> pa.Array:
    return pa.array(range(len(table)))


Bad = tuple[Callable[[dict[str, Any], Path], None], type[RetrievalError], str]
BAD: dict[str, Bad] = {
    "unknown column of pairs": (
        change("pairs", column("grade", numbers)), InvalidData,
        r"pairs .* have the unknown column 'grade': they take answer, id, query, task, weight",
    ),
    "feature that no table has": (
        put("entity", "features", "texts", value=["title", "brand"]), InvalidData,
        r"no entity table has the column 'brand': they have id, entity_type, title, tags, old",
    ),
    "text feature of wrong type": (
        change("entities", column("tags", numbers)), InvalidData,
        r"feature 'tags' is of type int64, a text feature is string or list of string",
    ),
    "vector feature of wrong type": (
        put("entity", "features", "vectors", value={"title": 16}), InvalidParams,
        r"feature 'title' is named twice",
    ),
    "vector feature of wrong dimension": (
        put("entity", "features", "vectors", value={"old": 8}), InvalidData,
        r"feature 'old' has a vector of 16 dimensions, the model takes 8",
    ),
    "vector feature that is text": (
        put("entity", "features", "vectors", value={"entity_type": 8}), InvalidData,
        r"feature 'entity_type' is of type string, a vector feature is a list of 8 floats",
    ),
    "frozen vectors of another dimension": (
        change("entities", column("old", lambda t: pa.array([[1.0, 2.0]] * len(t)))), InvalidData,
        r"feature 'old' has a vector of 2 dimensions, the model takes 16",
    ),
    "frozen vector that a pair needs is null": (
        change("entities", column("old", lambda t: pa.array([None, *t["old"].to_pylist()[1:]]))), InvalidData,
        r"task 'frozen' has a pair with entity 'e0', whose 'old' is null: .* remove such pairs \(1 of 40\)",
    ),
    "pair with an absent entity": (
        change("pairs", first("id", "e99")), InvalidData,
        r"row 0 of .*pairs.parquet names entity 'e99', which no entity table has",
    ),
    "ids of another type": (
        change("pairs", column("id", numbers)), InvalidData,
        r"column 'id' of .*pairs.parquet is of type int64, it has to be string, as the ids of the entities are",
    ),
    "queries that are numbers": (
        change("pairs", column("query", numbers)), InvalidData,
        r"column 'query' of .*pairs.parquet is of type int64, it has to be string: cast it",
    ),
    "weights that are text": (
        change("pairs", column("weight", lambda t: t["query"])), InvalidData,
        r"column 'weight' of .*pairs.parquet is of type string, it has to be a number: cast it",
    ),
    "weight that is not a number": (
        change("pairs", first("weight", float("nan"))), InvalidData,
        r"row 0 of .*pairs.parquet has weight nan: weights are above 0 and finite",
    ),
    "blank query": (
        change("pairs", first("query", " ")), InvalidData, r"row 0 of .*pairs.parquet has no query text",
    ),
    "task that is not configured": (
        change("pairs", first("task", "clicks")), InvalidData,
        r"row 0 of .*pairs.parquet is of task 'clicks': the configuration has pins, products, alike, frozen",
    ),
    "task without pairs": (
        change("pairs", lambda t: t.filter(pc.not_equal(t["task"], "alike"))), InvalidData,
        r"task 'alike' has no pair in .*pairs.parquet: add some, or take it out of the configuration",
    ),
    "entity twice": (
        change("entities", first("id", "e1")), InvalidData, r"entity 'e1' is in the tables twice",
    ),
    "entity without id": (
        change("entities", first("id", None)), InvalidData, r"entity row 0 has no id",
    ),
    "entity type that is a number": (
        change("entities", column("entity_type", numbers)), InvalidData,
        r"column 'entity_type' is of type int64, it has to be string: cast it",
    ),
    "no entities": (
        change("entities", lambda t: t.slice(0, 0)), InvalidData, r"the entity tables have no rows",
    ),
    "pool without entities": (
        put("tasks", "pins", "entity_type", value="pins"), InvalidData,
        r"no entity is of type 'pins': the tables have pin, product",
    ),
    "table that is not there": (
        put("data", "pairs", value="/nowhere/pairs.parquet"), InvalidData,
        r"table /nowhere/pairs.parquet does not exist",
    ),
    "table that is no Parquet": (
        lambda body, folder: (folder / "pairs.parquet").write_text("query,id\n"), InvalidData,
        r"table .*pairs.parquet cannot be read as Parquet",
    ),
    "hub name that cannot be reached": (
        put("query", "encoder", value="nobody/no-such-encoder"), MissingDependency,
        r"encoder 'nobody/no-such-encoder' cannot be loaded \(.*\): give a local folder, or download it",
    ),
    "space id that names none": (
        put("tasks", "frozen", "frozen_space", value="old space"), InvalidParams,
        r"tasks.frozen: space id 'old space' is not acceptable",
    ),
    "unknown setting": (
        put("run", "epochs", value=3), InvalidParams, r"there is no setting 'run.epochs'",
    ),
    "setting beyond its limit": (
        put("run", "batch", value=1), InvalidParams, r"run.batch = 1 is not acceptable: .* greater than or equal to 2",
    ),
}  # fmt: skip


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("offline")
def test_bad_input_is_one_sentence_and_writes_nothing(name: str, body: dict[str, Any], tmp_path: Path) -> None:
    spoil, error, said = BAD[name]
    spoil(body, tmp_path)
    with pytest.raises(error, match=said) as raised:
        Trainer(make_settings(body, where="test"), work=tmp_path / "work").run(tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work" / STATE_FILE).exists()


def to_toml(body: dict[str, Any]) -> str:
    """Settings as TOML: sections of one and two levels, values as JSON, which TOML reads the same."""
    lines = []

    def section(name: str, values: dict[str, Any]) -> None:
        lines.append(f"[{name}]")
        lines.extend(f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict))
        for key, value in values.items():
            if isinstance(value, dict):
                section(f"{name}.{key}", value)

    for name, values in body.items():
        section(name, values)
    return "\n".join(lines)


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, list[str]]:
    """Exit code, standard output and the error lines of the command line, progress left out."""
    monkeypatch.setattr(sys, "argv", ["retrieval", "train", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, [
        line for line in printed.err.splitlines() if line.startswith("retrieval:")
    ]  # fmt: skip


def test_the_command_trains_and_refuses_to_overwrite(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "train.toml", tmp_path / "out"
    config.write_text(to_toml(body))
    given = ("--config", config, "--out", out)
    code, printed, errors = command(monkeypatch, capsys, *given, "--set", "run.steps=2", "--json")
    assert (code, errors) == (0, [])
    told = json.loads(printed.splitlines()[-1])
    config_written = read_checkpoint(out).config
    assert (told["space_id"], told["steps"]) == (config_written.space_id, 2)
    assert config_written.compatible == ("old-space",)
    code, _, errors = command(monkeypatch, capsys, *given)
    assert (code, len(errors)) == (2, 1)
    assert "exists already: remove it or choose another folder for the checkpoint" in errors[0]
    assert read_checkpoint(out).config == config_written


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "run.epochs=3"), "there is no setting 'run.epochs'"),
        (("--set", "nonsense"), "--set 'nonsense' is not acceptable: write NAME=VALUE"),
        (("--set", "data.pairs=/nowhere.parquet"), "table /nowhere.parquet does not exist"),
        (("--replay", "x.json"), "give --out for the checkpoint of a training, or --replay for a step"),
    ],
)
def test_the_command_ends_with_one_line_and_an_exit_code(
    arguments: tuple[str, ...],
    said: str,
    body: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "train.toml").write_text(to_toml(body))
    given = ("--config", tmp_path / "train.toml", "--out", tmp_path / "out")
    code, _, errors = command(monkeypatch, capsys, *given, *arguments)
    assert (code, len(errors)) == (2, 1)
    assert said in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_bad_step_is_kept_and_can_be_looked_at_again(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(make_settings(body, where="test"), work=tmp_path / "work")

    def spoil(step: int) -> None:
        if step == 5:
            with torch.no_grad():
                trainer.model.entity.outer.weight[0, 0] = float("inf")

    trainer._on_step = spoil
    kept = tmp_path / "work" / "bad-step-5.json"
    with pytest.raises(BuildFailed, match=r"stopped at step 5: .* look at it with train --replay .*bad-step-5.json"):
        trainer.run(tmp_path / "out")
    good_state = (tmp_path / "work" / STATE_FILE).read_bytes()
    before = {path: path.read_bytes() for path in (tmp_path / "work").iterdir() if path.is_file()}

    again = Trainer(make_settings(body, where="test"), work=tmp_path / "elsewhere").replay(kept)
    assert (again.step, np.isfinite(again.loss), again.weights) == (5, False, ("entity.outer.weight",))
    assert again.answers
    assert again.queries == ()
    assert np.isfinite(again.terms["frozen"]["in_batch"])
    assert not np.isfinite(again.terms["pins"]["in_batch"])

    config = tmp_path / "train.toml"
    config.write_text(to_toml(body))
    code, printed, errors = command(monkeypatch, capsys, "--config", config, "--replay", kept, "--json")
    assert (code, errors) == (0, [])
    assert json.loads(printed.splitlines()[-1])["weights"] == ["entity.outer.weight"]
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "work" / STATE_FILE).read_bytes() == good_state


def test_a_good_step_replayed_has_the_loss_that_was_logged(body: dict[str, Any], tmp_path: Path) -> None:
    trainer = Trainer(make_settings(body, where="test"), work=tmp_path / "work")
    seen: list[float] = []

    class Failing(Ranks):
        def mean(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(float(x.detach()))
            return x.detach() * (float("nan") if len(seen) == 4 else 1)

    trainer._ranks = Failing()
    with pytest.raises(BuildFailed, match="training stopped at step 3"):
        trainer.run(tmp_path / "out")
    kept = tmp_path / "work" / "bad-step-3.json"
    fresh = Trainer(make_settings(body, where="test"), work=tmp_path / "work")
    again = fresh.replay(kept)
    assert again.loss == pytest.approx(seen[-1], rel=1e-6)
    assert again.weights == again.gradients == again.queries == again.answers == ()

    part = json.loads(kept.read_text())
    part["tasks"] = {"pins": {name: values[:2] for name, values in part["tasks"]["pins"].items()}}
    kept.write_text(json.dumps(part))  # a smaller batch, to find the bad row
    assert set(fresh.replay(kept).terms) == {"pins"}
    for change_to, error, said in (
        (
            {"version": 2},
            DamagedData,
            "is retrieval-bad-step version 2, this program reads retrieval-bad-step version 1",
        ),
        ({"tasks": {}}, InvalidData, "has no task: keep at least one"),
        ({"tasks": {"x": {}}}, InvalidData, "has task 'x': the configuration has pins, products, alike, frozen"),
    ):
        kept.write_text(json.dumps({**part, **change_to}))
        with pytest.raises(error, match=said):
            fresh.replay(kept)
    part["tasks"]["pins"]["answers"][0] = "e99"
    kept.write_text(json.dumps(part))
    with pytest.raises(InvalidData, match="names 'e99', which the data does not have"):
        fresh.replay(kept)
    with pytest.raises(StoreError, match=r"cannot read the kept batch .*nowhere.json: No such file"):
        fresh.replay(tmp_path / "nowhere.json")


def test_a_state_of_another_version_or_of_changed_data_is_not_taken_up(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body["run"] = {**body["run"], "steps": 2}
    Trainer(make_settings(body, where="test"), work=tmp_path / "work").run(tmp_path / "out")
    before = (tmp_path / "work" / STATE_FILE).read_bytes()
    monkeypatch.setattr(state, "VERSION", 2)
    with pytest.raises(DamagedData, match=r"is retrieval-training-state version 1, this program reads version 2"):
        Trainer(make_settings(body, where="test"), work=tmp_path / "work").run(tmp_path / "again")
    monkeypatch.undo()
    change("entities", first("title", "another text of the first entity"))(body, tmp_path)
    with pytest.raises(FailedPrecondition, match="holds a training with other settings or data, at step 2"):
        Trainer(make_settings(body, where="test"), work=tmp_path / "work").run(tmp_path / "again")
    assert (tmp_path / "work" / STATE_FILE).read_bytes() == before
    assert not (tmp_path / "again").exists()


def test_every_part_of_a_trained_checkpoint_is_checked(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body["query"] = {**body["query"], "tuning": "whole"}
    body["run"] = {**body["run"], "steps": 2}
    out = tmp_path / "out"
    Trainer(make_settings(body, where="test"), work=tmp_path / "work").run(out)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert {"entity/settings.json", "entity/vocabulary.safetensors", "entity/weights.safetensors"} <= set(files)
    assert {"text_encoder/model.safetensors", "encoder/model.safetensors", "projection.safetensors"} <= set(files)
    random = np.random.default_rng(0)
    for name in files:
        good = (out / name).read_bytes()
        for place in (0, len(good) - 1, *random.integers(len(good), size=3).tolist()):
            bad = bytearray(good)
            bad[place] ^= 1 << int(random.integers(8))
            (out / name).write_bytes(bytes(bad))
            with pytest.raises(DamagedData, match=r"damaged|readable|checksum|not as it was|configuration|version"):
                EntityTower.load(out)
        (out / name).write_bytes(good)
    EntityTower.load(out)
    monkeypatch.setattr(entity_parts, "TOKENISATION", "cuts-99")
    with pytest.raises(DamagedData, match=r"version 1 with vocabulary .*, this program reads version 1 with cuts-99"):
        EntityTower.load(out)
