"""A recipe from its sources to a checkpoint, in stages that are each done once.

    OUT/recipe.json                    whose work this is
    OUT/tables/SOURCE/                 entities, pairs by split, what is held out (`retrieval.training.sources.tables`)
    OUT/tables/{entities,pairs,validation}.parquet, never_queries.txt      of all sources, as the training reads them
    OUT/zero_shot/                     checkpoint of the tower before training, whose embeddings stay searchable
    OUT/work/                          parts of unfinished stages, resumable states and the log
    OUT/tower/                         the trained checkpoint, with result.json beside it

A stage's output appears whole or not at all, so what is there is finished. Knows nothing about serving.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval import catalogue
from retrieval.errors import InvalidParams, StoreError
from retrieval.towers.checkpoint import read_checkpoint
from retrieval.towers.features import EncodedText
from retrieval.towers.pretrained import DEFAULT_ENCODER, load_default, load_named
from retrieval.training.config import Answer, TrainSettings, read_config
from retrieval.training.recipes.claim import claim, write_record
from retrieval.training.recipes.encoded import (
    FROZEN_COLUMN,
    add_frozen,
    add_states,
    replace_table,
    shuffled,
    zero_shot_checkpoint,
)
from retrieval.training.recipes.named import Recipe, named_recipe, stored_held_out
from retrieval.training.sources.icecat import plain_key
from retrieval.training.sources.tables import PAIRS, Split
from retrieval.training.trainer import Trainer

Progress = Callable[[str, int, int], None]

BEFORE = "_before"  # task NAME_before asks for the answers of task NAME in the space of the zero-shot tower
TOWER, ZERO_SHOT, TABLES, RESULT = "tower", "zero_shot", "tables", "result.json"


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """What a recipe made. compatible: spaces that the new queries may search; trained: whether this run trained it."""

    recipe: str
    tower: Path
    space_id: str
    compatible: tuple[str, ...]
    steps: int
    best_step: int
    validation: dict[str, float]
    trained: bool
    seconds: float


def run_recipe(
    name: str,
    out: Path,
    *,
    data: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    on_step: Callable[[int], None] | None = None,
) -> RecipeResult:
    """Run what is not finished yet of recipe `name` in the folder `out`.

    data: folder of the data sets that are not shipped; overrides: dotted names to values over the recipe's settings;
    progress: (stage, done, total); on_step: told each finished step. InvalidArgument for an unknown recipe or setting,
    a file that `data` lacks, or an `out` that holds something else: nothing is overwritten.
    """
    started, report = time.monotonic(), progress or (lambda stage, done, total: None)
    recipe = named_recipe(name)
    data = recipe.check_data(data)
    _encoded(read_config(recipe.settings_file, _overrides(recipe, out, "unknown", overrides)))
    claim(out, recipe, overrides or {})
    trained = not (out / TOWER).exists()
    if trained:
        _prepare(recipe, out, data, report)
        settings = _embed(recipe, out, overrides, report)
        _merge(recipe, out, settings)
        result = Trainer(settings, work=out / "work" / "training", progress=report, on_step=on_step).run(out / TOWER)
        record = {
            "space_id": result.config.space_id,
            "steps": result.steps,
            "best_step": result.best_step,
            "validation": result.validation,
        }
        write_record(out / RESULT, record)
    config = read_checkpoint(out / TOWER).config
    facts = _facts(out / RESULT)
    return RecipeResult(
        recipe=name,
        tower=out / TOWER,
        space_id=config.space_id,
        compatible=config.compatible,
        steps=facts.get("steps", 0),
        best_step=facts.get("best_step", 0),
        validation=facts.get("validation", {}),
        trained=trained,
        seconds=time.monotonic() - started,
    )


def _prepare(recipe: Recipe, out: Path, data: Path, report: Progress) -> None:
    for done, (name, source) in enumerate(recipe.sources.items()):
        report("prepare", done, len(recipe.sources))
        folder = out / TABLES / name
        if not folder.exists():
            source.prepare(data, folder, stored_held_out(name))
    report("prepare", len(recipe.sources), len(recipe.sources))


def _embed(recipe: Recipe, out: Path, overrides: Mapping[str, Any] | None, report: Progress) -> TrainSettings:
    """Encode all entities; the settings with the space of the zero-shot tower, now that it is known."""
    settings = read_config(recipe.settings_file, _overrides(recipe, out, "unknown", overrides))
    encoded, name = _encoded(settings), settings.query.encoder
    tokens = encoded.max_tokens
    encoder = load_default(max_tokens=tokens) if name is None else load_named(name, max_tokens=tokens)
    tables = [out / TABLES / source / "entities.parquet" for source in recipe.sources]
    for path in tables:
        add_states(path, encoder, encoded, work=out / "work" / "encoded" / path.parent.name, progress=report)
    before = zero_shot_checkpoint(
        out / ZERO_SHOT, tables, encoder, encoded, d=settings.query.d, name=name or DEFAULT_ENCODER
    )
    for path in tables:
        add_frozen(path, encoded, out / ZERO_SHOT, hidden=encoder.hidden)
    replace_table(out / TABLES / "entities.parquet", shuffled([pq.read_table(path) for path in tables]))
    return read_config(recipe.settings_file, _overrides(recipe, out, before.space_id, overrides))


def _merge(recipe: Recipe, out: Path, settings: TrainSettings) -> None:
    """Pairs of all sources in one table each, judged queries left out; tasks NAME_before get the pairs of NAME."""
    judged = sorted(set(catalogue.judgments().column("query").to_pylist()))
    never = {plain_key(query) for query in judged}
    answered = {name for name, task in settings.tasks.items() if task.answer is Answer.ENTITY}
    frozen = sorted(name for name in settings.tasks if name.endswith(BEFORE))
    for split, path in ((Split.TRAIN, settings.data.pairs), (Split.VALIDATION, settings.data.validation)):
        if path is None:
            continue
        kept = answered if split is Split.VALIDATION else set(settings.tasks)
        rows = [
            row
            for name in recipe.sources
            for row in pq.read_table(out / TABLES / name / f"{split}.parquet").to_pylist()
            # one source's subject may be another's judged query
            if row["task"] in kept and not any(plain_key(row[side] or "") in never for side in ("query", "answer"))
        ]
        if split is Split.TRAIN:
            rows += [
                {**row, "task": before}
                for before in frozen
                for row in rows
                if row["task"] == before.removesuffix(BEFORE)
            ]
        replace_table(path, pa.Table.from_pylist(rows, schema=PAIRS))
    path = settings.data.never_queries
    assert path is not None
    try:
        path.write_text("".join(f"{query}\n" for query in judged), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def _overrides(recipe: Recipe, out: Path, space: str, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a recipe lays over its file: where its tables are and which space is to stay searchable; then the user's."""
    tables = (out / TABLES).resolve()
    body: dict[str, Any] = {
        "data.entities": [str(tables / "entities.parquet")],
        "data.pairs": str(tables / "pairs.parquet"),
        "data.validation": str(tables / "validation.parquet"),
        "data.never_queries": str(tables / "never_queries.txt"),
    }
    taken = sorted(name for name in overrides or {} if name.split(".")[0] == "data")
    if taken:
        raise InvalidParams(f"--set {taken[0]} is not acceptable: where the tables of a recipe are follows from --out")
    plain = read_config(recipe.settings_file, {**body, **(overrides or {})})
    for name, task in plain.tasks.items():
        if task.answer is Answer.FROZEN and task.frozen_vector == FROZEN_COLUMN:
            body[f"tasks.{name}.frozen_space"] = space
    return {**body, **(overrides or {})}


def _encoded(settings: TrainSettings) -> EncodedText:
    if settings.entity.encoded is None:
        raise InvalidParams("a recipe encodes its entities once: leave entity.encoded in its settings")
    return settings.entity.encoded


def _facts(path: Path) -> dict[str, Any]:
    """What an earlier run wrote of its training; nothing when it was killed just before."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
