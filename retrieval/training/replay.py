"""A step whose loss was not finite, kept for people and for another look, and that look.

    bad-step-N.json   the batch as texts and ids, by task; may be edited, for example halved until the loss is finite
    bad-step-N.bin    the state before the step

Replaying computes the step again without learning from it and names what is not finite: weights, vectors of queries and
answers, terms of the loss, gradients. Knows nothing about the training loop.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval.errors import DamagedData, InvalidData, StoreError
from retrieval.training.config import Answer, TrainSettings
from retrieval.training.data import TrainData
from retrieval.training.inputs import InputMaker
from retrieval.training.model import UnifiedModel
from retrieval.training.sampler import TaskBatch
from retrieval.types import I64

FORMAT = "retrieval-bad-step"
VERSION = 1

_NAMED = 10  # of each kind of finding


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a step looked like again. terms: parts of the loss by task; the tuples name what is not finite, 10 each."""

    step: int
    loss: float
    terms: dict[str, dict[str, float]]
    weights: tuple[str, ...]
    gradients: tuple[str, ...]
    queries: tuple[str, ...]
    answers: tuple[str, ...]


def keep_batch(
    path: Path, batches: Mapping[str, TaskBatch], *, step: int, value: float, settings: TrainSettings, data: TrainData
) -> None:
    """Write the batch of step `step` at `path`; value: the loss or gradient norm that stopped it."""
    ids = data.entities.table.column("id")
    tasks = {}
    for name, batch in batches.items():
        answered_by_query = settings.tasks[name].answer is Answer.QUERY

        def shown(numbers: I64, query: bool = answered_by_query) -> list[Any]:
            return [data.queries[number] if query else ids[int(number)].as_py() for number in numbers]

        tasks[name] = {
            "queries": [data.queries[number] for number in batch.queries],
            "answers": shown(batch.answers),
            "weights": batch.weights.tolist(),
            "randoms": shown(batch.randoms),
        }
    body = {"format": FORMAT, "version": VERSION, "step": step, "value": str(value), "tasks": tasks}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(body, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"cannot keep the batch in {path}: {error.strerror}") from error


def read_batch(path: Path, *, settings: TrainSettings, data: TrainData) -> tuple[int, dict[str, TaskBatch]]:
    """Step number and batch of a file that `keep_batch` wrote.

    StoreError when it cannot be read, DamagedData when it is no such file, InvalidData for a query or an answer that
    the data does not have.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"cannot read the kept batch {path}: {error.strerror}") from error
    except ValueError as error:
        raise DamagedData(
            f"the kept batch {path} is not JSON ({error}): name the file that the training named"
        ) from None
    stated = (body.get("format"), body.get("version")) if isinstance(body, dict) else (None, None)
    if stated != (FORMAT, VERSION):
        raise DamagedData(
            f"{path} is {stated[0]} version {stated[1]}, this program reads {FORMAT} version {VERSION}: name the file "
            "that the training named"
        )
    numbers = {text: number for number, text in enumerate(data.queries)}
    batches = {}
    for name, kept in body["tasks"].items():
        if name not in settings.tasks:
            raise InvalidData(f"{path} has task {name!r}: the configuration has {', '.join(settings.tasks)}")
        known = numbers if settings.tasks[name].answer is Answer.QUERY else data.entities.rows
        weights = np.array(kept["weights"], dtype=np.float32)
        queries = _numbers(kept["queries"], numbers, path)
        answers = _numbers(kept["answers"], known, path)
        if not len(queries) == len(answers) == len(weights) or len(queries) < 1:
            raise InvalidData(
                f"task {name!r} of {path} has {len(queries)} queries, {len(answers)} answers and {len(weights)} "
                "weights: keep as many of each, at least one"
            )
        randoms = _numbers(kept["randoms"], known, path)
        batches[name] = TaskBatch(queries=queries, answers=answers, weights=weights, randoms=randoms)
    if not batches:
        raise InvalidData(f"{path} has no task: keep at least one")
    return int(body["step"]), batches


def replay_step(
    model: UnifiedModel, inputs: InputMaker, batches: Mapping[str, TaskBatch], *, step: int, data: TrainData
) -> Replay:
    """Loss and gradients of a batch on the model as it is; nothing is learned and nothing is counted."""
    weights = tuple(name for name, value in model.named_parameters() if not bool(value.isfinite().all()))
    model.zero_grad(set_to_none=True)
    made = inputs.make(batches, step, count=False)
    loss, terms = model(made)
    loss.backward()
    grown = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    gradients = tuple(name for name, value in grown.items() if not bool(value.isfinite().all()))
    model.zero_grad(set_to_none=True)
    queries: list[str] = []
    answers: list[str] = []
    ids = data.entities.table.column("id")
    with torch.no_grad(), _evaluating(model):
        for name, batch in batches.items():
            bad = ~model.encode_queries(made[name].queries).isfinite().all(dim=1).cpu().numpy()
            queries += [data.queries[number] for number in batch.queries[bad]]
            bad = ~model.encode(made[name].answers).isfinite().all(dim=1).cpu().numpy()
            by_query = inputs.answered_by_query(name)
            answers += [data.queries[n] if by_query else str(ids[int(n)].as_py()) for n in batch.answers[bad]]
    return Replay(
        step=step,
        loss=float(loss.detach()),
        terms={name: {"in_batch": float(term.in_batch), "random": float(term.random)} for name, term in terms.items()},
        weights=weights[:_NAMED],
        gradients=gradients[:_NAMED],
        queries=tuple(dict.fromkeys(queries))[:_NAMED],
        answers=tuple(dict.fromkeys(answers))[:_NAMED],
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _numbers(values: list[Any], known: Mapping[Any, int], path: Path) -> I64:
    for value in values:
        if value not in known:
            raise InvalidData(
                f"{path} names {value!r}, which the data does not have: replay it with the data it was of"
            )
    return np.array([known[value] for value in values], dtype=np.int64)
