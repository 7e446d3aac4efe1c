"""One training of a variant and what it is worth on the test pairs of its sets.

Everything that variants can share lies in the work folder: prepared tables, encoded texts, and the scores of each
distinct training (studies that contain the same training run it once). Knows nothing about reports.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.unified.sets import SETS, prepared
from bench.unified.states import States
from bench.unified.studies import FEATURE, PAIRS_OF_A_TASK, PREFIXES, Variant
from retrieval.towers.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from retrieval.towers.encoder import Encoder
from retrieval.towers.features import vector_column
from retrieval.towers.pretrained import load_default, load_named
from retrieval.towers.projection import Projection, fit_projection
from retrieval.towers.text import entity_text
from retrieval.training.compatibility import old_space_systems
from retrieval.training.config import TrainSettings, read_config
from retrieval.training.evaluation import evaluate_system
from retrieval.training.questions import read_corpus, read_questions
from retrieval.training.rankings import System
from retrieval.training.sources.tables import PAIRS
from retrieval.training.systems import Bm25System, text_columns, tower_system, zero_shot_system
from retrieval.training.trainer import Trainer

Progress = Callable[[str, int, int], None]

OLD_COLUMN, _OLD_SUFFIX = "embedding", "_old"
_SAMPLE = 20_000  # entities that the space before is fitted on


@dataclass(kw_only=True)
class Bench:
    """Where studies run. overrides: laid over base.toml for all of them; limit: entities of a set, None for all."""

    config: Path
    data: Path
    work: Path
    overrides: Mapping[str, Any]
    limit: int | None
    progress: Progress

    def __post_init__(self) -> None:
        self._states: States | None = None
        self._encoder: Encoder | None = None

    def settings(self, variant: Variant) -> dict[str, Any]:
        """What the figures of a variant follow from besides the seed, as it is written into its rows."""
        text = self.config.read_text(encoding="utf-8")
        shared = {"base": hashlib.sha256(text.encode()).hexdigest()[:12], "limit": self.limit}
        return {**variant.settings(), "overrides": {**self.overrides, **variant.overrides}, **shared}

    def scores(self, variant: Variant, seed: int) -> list[dict[str, Any]]:
        """Scores of a variant, as `Score.to_row` gives them, with the seconds of its training."""
        key = json.dumps(
            {**self.settings(variant), "rivals": variant.rivals and seed == 0, "seed": seed}, sort_keys=True
        )
        folder = self.work / "runs" / hashlib.sha256(key.encode()).hexdigest()[:16]
        kept = folder / "scores.json"
        if kept.is_file():
            found: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
            return found
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed: a training takes seconds
        (self.work / "encoded").mkdir(parents=True, exist_ok=True)
        (folder / "work").mkdir(parents=True)
        (folder / "work" / "encoded").symlink_to((self.work / "encoded").resolve())
        began = time.monotonic()
        old = self._tables(variant, folder)
        settings = self._training(variant, folder, seed, old)
        Trainer(settings, work=folder / "work", progress=self.progress).run(folder / "tower")
        seconds = round(time.monotonic() - began, 1)
        rows = [{**row, "train_seconds": seconds} for row in self._measure(variant, seed, folder, old)]
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(rows), encoding="utf-8")
        os.replace(partial, kept)
        for path in folder.iterdir():  # tables and weights would fill the disk
            if path.is_dir():
                shutil.rmtree(path)
            elif path != kept:
                path.unlink()
        return rows

    def _training(self, variant: Variant, folder: Path, seed: int, old: Checkpoint | None) -> TrainSettings:
        tasks = variant.tasks
        if old is not None:
            frozen = {"answer": "frozen", "frozen_vector": OLD_COLUMN, "frozen_space": old.config.space_id}
            tasks |= {f"{name}{_OLD_SUFFIX}": frozen for name, task in tasks.items() if task.get("answer") != "query"}
        overrides = {
            "data.entities": [str(folder.resolve() / f"{name}.parquet") for name in variant.sets],
            "data.pairs": str(folder.resolve() / "pairs.parquet"),
            "entity.features.texts": list(variant.texts),
            "entity.encoded": {"feature": FEATURE, "columns": list(variant.texts)},
            "tasks": tasks,
            "run.seed": seed,
            "run.batch": PAIRS_OF_A_TASK * len(tasks),
            **self.overrides,
            **variant.overrides,
        }
        return read_config(self.config, overrides)

    def _tables(self, variant: Variant, folder: Path) -> Checkpoint | None:
        """Write what the training reads; gives the checkpoint of the space before, where the variant has one."""
        pairs, tables, sample = [], {}, []
        for name in variant.sets:
            source = prepared(name, self.data, self.work, limit=self.limit)
            table = pq.read_table(source / "entities.parquet")
            texts = entity_text(table, variant.texts)
            states = self._known_states().of(texts, self.progress)
            there = np.array([bool(text) for text in texts], dtype=bool)
            values = pa.array(states.ravel(), type=pa.float16())
            column = pa.FixedSizeListArray.from_arrays(values, states.shape[1], mask=pa.array(~there))
            tables[name] = table.append_column(FEATURE, column)
            sample.append(states[there][:_SAMPLE].astype(np.float32))
            found = pq.read_table(source / "pairs.parquet")
            pairs.append(found.filter(pa.array([task in variant.tasks for task in found.column("task").to_pylist()])))
        together = pa.concat_tables(pairs)
        old = None
        if variant.frozen:
            old = self._space_before(folder / "before", np.concatenate(sample), variant)
            tables = {name: _with_old(table, old) for name, table in tables.items()}
            asked = [row for row in together.to_pylist() if row["id"] is not None]
            again = [{**row, "task": row["task"] + _OLD_SUFFIX} for row in asked]
            together = pa.concat_tables([together, pa.Table.from_pylist(again, schema=PAIRS)])
        pq.write_table(together, folder / "pairs.parquet")
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet")
        return old

    def _space_before(self, out: Path, states: np.typing.NDArray[np.float32], variant: Variant) -> Checkpoint:
        """The space that an index would have before any training: the encoder and a projection fitted by PCA."""
        encoder, settings = self._text_encoder()
        projection = fit_projection(states, settings.query.d)
        write_checkpoint(out, encoder=encoder, projection=projection, text_columns=variant.texts)
        return read_checkpoint(out)

    def _measure(self, variant: Variant, seed: int, folder: Path, old: Checkpoint | None) -> list[dict[str, Any]]:
        checkpoint, out = read_checkpoint(folder / "tower"), []
        for name in variant.sets:
            source = prepared(name, self.data, self.work, limit=self.limit)
            corpus = read_corpus([folder / f"{name}.parquet"])
            # also tasks that this variant was not trained on: what they lose is what training on them gives
            known = set(pq.read_table(source / "test.parquet", columns=["task"]).column("task").to_pylist())
            asked = read_questions(source / "test.parquet", corpus, tasks=sorted(known & set(SETS[name].tasks)))
            questions = list(asked.values())
            prefixes = [prefix for prefix in PREFIXES if prefix < checkpoint.config.d]
            systems: list[System] = [
                tower_system(checkpoint, corpus, questions, prefixes=prefixes, progress=self.progress)
            ]
            if variant.rivals and seed == 0:
                systems.append(zero_shot_system(checkpoint, corpus, questions, progress=self.progress))
                systems.append(Bm25System(corpus, text_columns(checkpoint)))
            scores = [score for system in systems for score in evaluate_system(system, asked, progress=self.progress)]
            if old is not None:
                by_entity = {task: found for task, found in asked.items() if found.rows is not None}
                for system in old_space_systems(checkpoint, old, folder / f"{name}.parquet", corpus, questions):
                    scores += evaluate_system(system, by_entity, progress=self.progress)
            out += [score.to_row() for score in scores]
        return out

    def _text_encoder(self) -> tuple[Encoder, TrainSettings]:
        settings = read_config(
            self.config,
            {"data": {"entities": ["x"], "pairs": "x"}, "entity.features": {"texts": ["x"]}, "tasks": {"x": {}}}
            | dict(self.overrides),
        )
        if self._encoder is None:
            name, tokens = settings.query.encoder, settings.query.max_tokens
            self._encoder = load_default(max_tokens=tokens) if name is None else load_named(name, max_tokens=tokens)
        return self._encoder, settings

    def _known_states(self) -> States:
        if self._states is None:
            self._states = States(self.work / "states", self._text_encoder()[0])
        return self._states


def _with_old(table: pa.Table, old: Checkpoint) -> pa.Table:
    column = table.column(FEATURE).combine_chunks()
    there = np.asarray(column.is_valid())
    states = np.asarray(column.drop_null().flatten()).astype(np.float32).reshape(int(there.sum()), -1)
    vectors = np.zeros((len(there), old.config.d), dtype=np.float32)
    projection: Projection = old.projection()
    vectors[there] = projection.apply(states)
    with_old = table.append_column(OLD_COLUMN, vector_column(vectors, present=there))
    return with_old.replace_schema_metadata({b"space_id": old.config.space_id.encode()})
