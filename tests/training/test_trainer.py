"""Training: resumed equals uninterrupted, two processes equal one, and every way in which it stops."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_training import write_all

from retrieval.errors import BuildFailed, DamagedData, FailedPrecondition, InvalidArgument, SpaceMismatch
from retrieval.spaces import check_compatible
from retrieval.towers.checkpoint import read_checkpoint
from retrieval.towers.entity import EntityTower
from retrieval.towers.query import QueryTower
from retrieval.training.config import make_settings
from retrieval.training.trainer import Trainer

PROGRAM = Path(__file__).parent / "tiny_training.py"


def train(body: dict[str, Any], place: Path, **more: Any) -> Path:
    Trainer(make_settings(body, where="test"), work=place / "work", **more).run(place / "out")
    return place / "out"


def as_program(body: dict[str, Any], place: Path, *, kill_at: int = -1, processes: int = 1) -> int:
    place.mkdir(exist_ok=True)
    config = place / "config.json"
    config.write_text(json.dumps(body))
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, str(PROGRAM), str(config), str(place / "work"), str(place / "out"), str(kill_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False).returncode


def weights(path: Path) -> dict[str, bytes]:
    return dict(read_checkpoint(path).parts)


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_all(tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize("tuning", ["head", "whole"])
def test_resumed_after_a_kill_equals_uninterrupted(body: dict[str, Any], tmp_path: Path, tuning: str) -> None:
    body = {**body, "query": {**body["query"], "tuning": tuning, "dropout": 0.1 if tuning == "whole" else 0.0}}
    body["run"] = {**body["run"], "validate_every": 3}
    (tmp_path / "whole").mkdir()
    straight = train(body, tmp_path / "whole")
    assert as_program(body, tmp_path / "killed", kill_at=6) == -signal.SIGKILL  # between two states
    assert as_program(body, tmp_path / "killed", kill_at=8) == -signal.SIGKILL  # just after one
    assert as_program(body, tmp_path / "killed") == 0
    assert weights(tmp_path / "killed" / "out") == weights(straight)
    logs = [(tmp_path / name / "work" / "log.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    steps = [[json.loads(line)["step"] for line in log] for log in logs]
    assert steps[0] == steps[1]


def test_two_processes_equal_one(body: dict[str, Any], tmp_path: Path) -> None:
    body = json.loads(json.dumps(body))
    body["entity"]["model"]["dropout"] = 0.0  # is drawn by each process for its own rows
    body["query"]["tuning"] = "whole"
    (tmp_path / "one").mkdir()
    one = read_checkpoint(train(body, tmp_path / "one"))
    assert as_program(body, tmp_path / "two", processes=2) == 0
    two = read_checkpoint(tmp_path / "two" / "out")
    moved = np.abs(one.projection().weight - two.projection().weight).max()
    assert moved < 2e-4
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "work" / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)


def test_a_trained_checkpoint_serves_and_lists_the_frozen_space(body: dict[str, Any], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    body = {**body, "run": {**body["run"], "steps": 80, "learning_rate": 0.01, "learning_rate_tokens": 0.01}}
    out = train(body, tmp_path)
    queries, entities = QueryTower.load(out), EntityTower.load(out)
    table = pq.read_table(body["data"]["entities"][0])
    vectors = entities.encode(table)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    answers = (queries.encode(["golden clock", "violet lamp"]) @ vectors.T).argmax(axis=1)
    assert [table.column("title")[int(row)].as_py() for row in answers] == [
        "a golden clock for the house",
        "a violet lamp for the house",
    ]
    assert queries.compatible == ("old-space",)
    check_compatible(queries.space_id, "old-space", queries.compatible)
    with pytest.raises(SpaceMismatch, match=r"a query of space sp1-\w+ cannot search an index of space other-space"):
        check_compatible(queries.space_id, "other-space", queries.compatible)


def test_tokens_and_vectors_are_the_same_in_training_and_in_serving(body: dict[str, Any], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    trainer = Trainer(make_settings(body, where="test"), work=tmp_path / "work")
    trainer.run(tmp_path / "out")
    with torch.no_grad():
        rows = np.arange(len(trainer.data.entities))
        seen = trainer.model.entity(trainer._inputs.entities(rows)).numpy()
        asked = trainer.model.encode_queries(trainer._inputs.queries(np.arange(5))).numpy()
    assert EntityTower.load(tmp_path / "out").encode(pq.read_table(body["data"]["entities"][0])) == pytest.approx(
        seen, abs=1e-5
    )
    assert QueryTower.load(tmp_path / "out").encode(trainer.data.queries[:5]) == pytest.approx(asked, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(body: dict[str, Any], tmp_path: Path) -> None:
    trainer = Trainer(make_settings(body, where="test"), work=tmp_path / "work")

    def spoil(step: int) -> None:
        if step == 5:
            with torch.no_grad():
                trainer.model.head.weight.fill_(float("nan"))

    trainer._on_step = spoil
    with pytest.raises(
        BuildFailed, match="training stopped at step 5: the loss or its gradient is nan; the batch is kept"
    ):
        trainer.run(tmp_path / "out")
    kept = json.loads((tmp_path / "work" / "bad-step-5.json").read_text())
    assert set(kept["tasks"]) == {"pins", "products", "alike", "frozen"}
    assert not (tmp_path / "out").exists()


def test_early_stopping_keeps_the_best_weights(body: dict[str, Any], tmp_path: Path) -> None:
    run = {"steps": 40, "validate_every": 2, "patience": 2, "learning_rate": 1e-9, "learning_rate_tokens": 1e-9}
    result = Trainer(make_settings({**body, "run": {**body["run"], **run}}, where="test"), work=tmp_path / "work").run(
        tmp_path / "out"
    )
    assert (result.best_step, result.steps) == (2, 6)  # nothing is learned, so the first validation stays the best


def test_what_cannot_go_on_is_refused(body: dict[str, Any], tmp_path: Path) -> None:
    out = train(body, tmp_path)
    with pytest.raises(InvalidArgument, match="exists already: remove it or choose another folder"):
        train(body, tmp_path)
    other = {**body, "run": {**body["run"], "seed": 1}}
    with pytest.raises(FailedPrecondition, match="holds a training with other settings or data, at step 12"):
        Trainer(make_settings(other, where="test"), work=tmp_path / "work").run(tmp_path / "out2")
    state = tmp_path / "work" / "state.bin"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    with pytest.raises(DamagedData, match="does not match its SHA-256: remove it to start again"):
        Trainer(make_settings(body, where="test"), work=tmp_path / "work").run(tmp_path / "out3")
    assert out.exists()
    assert not (tmp_path / "out2").exists()
    assert not (tmp_path / "out3").exists()
