"""All that a training reads, prepared once: features of every entity, pairs by task, texts of queries, frozen vectors.

Held in memory as numbers (a text costs 4 bytes a token). What the frozen encoder makes of texts is computed once and
kept in the work folder under a name that depends on its content. Knows nothing about losses or optimisers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrieval.errors import InvalidData, InvalidParams
from retrieval.towers.encoder import Encoder
from retrieval.towers.encoder import Precision as EncoderPrecision
from retrieval.towers.features import (
    Features,
    FeatureSettings,
    hash_texts,
    read_features,
    vector_column,
    vector_values,
)
from retrieval.towers.text import entity_text, query_texts
from retrieval.towers.tokenise import Ragged, Tokenisation
from retrieval.towers.vocabulary import Vocabulary, build_vocabulary
from retrieval.training.config import Answer, Precision, TrainSettings, Tuning
from retrieval.training.sampler import KnownAnswers
from retrieval.training.tables import EntityTable, TaskPairs, read_entities, read_pairs
from retrieval.types import F32, I64

Progress = Callable[[str, int, int], None]

_CHUNK = 16_384  # entities tokenised at a time


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """Inputs of a training. queries: normalised texts by number; pooled: unit states of a frozen encoder or None."""

    entities: EntityTable
    feature_settings: FeatureSettings
    vocabularies: dict[Tokenisation, Vocabulary]
    features: Features
    pairs: dict[str, TaskPairs]
    validation: dict[str, TaskPairs]
    queries: list[str]
    pooled: F32 | None
    frozen: dict[str, F32]
    pools: dict[str, I64]
    known: dict[str, KnownAnswers]

    def fingerprint(self) -> str:
        """SHA-256 over all that a step reads: a state is resumed only on the data it was made with."""
        digest = hashlib.sha256(f"{len(self.entities)} {len(self.queries)}".encode())
        for text in self.queries:
            digest.update(text.encode() + b"\0")
        for cut, vocabulary in self.vocabularies.items():
            ragged = self.features.tokens[cut]
            for array in (vocabulary.tokens, ragged.values, ragged.offsets):
                digest.update(np.ascontiguousarray(array).tobytes())
        for array in (self.features.present, *self.features.vectors.values(), *self.frozen.values()):
            digest.update(np.ascontiguousarray(array).tobytes())
        for name, pairs in self.pairs.items():
            digest.update(name.encode())
            for array in (pairs.queries, pairs.answers, pairs.weights):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def read_data(settings: TrainSettings, encoder: Encoder, *, work: Path, progress: Progress | None = None) -> TrainData:
    """Read and prepare; InvalidData for every way in which tables can be wrong (`retrieval.training.tables`)."""
    report = progress or (lambda stage, done, total: None)
    report("read tables", 0, 1)
    frozen_names = {task.frozen_vector for task in settings.tasks.values() if task.frozen_vector is not None}
    entities = read_entities(settings.data.entities, settings.entity.features, vectors=frozen_names)
    numbers: dict[str, int] = {}
    pairs = read_pairs(settings.data.pairs, settings.tasks, entities, numbers)
    validation = _validation(settings, entities, numbers)
    queries = list(numbers)
    _check_never(settings.data.never_queries, queries)
    report("read tables", 1, 1)
    table, feature_settings = entities.table, settings.entity.features
    frozen = _frozen(table, settings, pairs)
    encoded = settings.entity.encoded
    if encoded is not None:
        feature_settings = with_encoded(feature_settings, encoded.feature, encoder.hidden)
        if encoded.feature not in table.column_names:
            texts = entity_text(table, encoded.columns)
            reader = _reader(encoder.reading(encoded.max_tokens), settings)
            vectors = _encode(reader, texts, work=work, stage="encode entities", report=report)
            table = table.append_column(
                encoded.feature, vector_column(vectors, present=np.array([bool(text) for text in texts]))
            )
    vocabularies = _vocabularies(table, settings, feature_settings, report)
    pooled = None
    if settings.query.tuning is Tuning.HEAD:
        pooled = _encode(_reader(encoder, settings), queries, work=work, stage="encode queries", report=report)
    return TrainData(
        entities=entities,
        feature_settings=feature_settings,
        vocabularies=vocabularies,
        features=_features(table, feature_settings, vocabularies, report),
        pairs=pairs,
        validation=validation,
        queries=queries,
        pooled=pooled,
        frozen=frozen,
        pools={name: _pool(settings, name, entities, pairs[name], frozen) for name in settings.tasks},
        known=_known(settings, pairs),
    )


def with_encoded(settings: FeatureSettings, name: str, width: int) -> FeatureSettings:
    """Feature settings with the encoded text as one more vector feature."""
    return settings.model_copy(update={"vectors": {**settings.vectors, name: width}})


def _validation(settings: TrainSettings, entities: EntityTable, numbers: dict[str, int]) -> dict[str, TaskPairs]:
    if settings.data.validation is None:
        return {}
    answered = {name: task for name, task in settings.tasks.items() if task.answer is Answer.ENTITY}
    if not answered:
        raise InvalidParams("validation pairs need a task that is answered by entities: the configuration has none")
    return read_pairs(settings.data.validation, answered, entities, numbers)


def _check_never(path: Path | None, queries: Sequence[str]) -> None:
    if path is None:
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidData(
            f"list of queries {path} cannot be read ({error.strerror}): correct data.never_queries"
        ) from None
    never = {text.lower() for text in query_texts([line for line in lines if line.strip()])}
    leaked = sorted(text for text in queries if text.lower() in never)
    if leaked:
        raise InvalidData(f"query {leaked[0]!r} is in the pairs and in {path}: take all {len(leaked)} such queries out")


def _reader(encoder: Encoder, settings: TrainSettings) -> Encoder:
    """The frozen encoder in the precision of the training, where it and this CPU can compute in it."""
    wanted = settings.run.precision is Precision.BFLOAT16
    return encoder.computing_in(EncoderPrecision.AUTO if wanted else EncoderPrecision.FLOAT32)


def _encode(encoder: Encoder, texts: Sequence[str], *, work: Path, stage: str, report: Progress) -> F32:
    """Unit pooled states float32 [n, hidden]; zero where the text is empty."""
    digest = hashlib.sha256(f"{encoder.max_tokens} {encoder.precision}".encode())
    for part in encoder.parts().values():
        digest.update(hashlib.sha256(part).digest())
    for text in texts:
        digest.update(text.encode() + b"\0")
    path = work / "encoded" / f"{digest.hexdigest()[:32]}.npy"
    if path.is_file():
        return np.asarray(np.load(path), dtype=np.float32)
    done, there = 0, [row for row, text in enumerate(texts) if text]

    def count(finished: int) -> None:
        nonlocal done
        done += finished
        report(stage, done, len(there))

    states = np.zeros((len(texts), encoder.hidden), dtype=np.float32)
    found = encoder.encode([texts[row] for row in there], on_batch=count)
    states[there] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, states)
    os.replace(partial, path)
    return states


def _vocabularies(
    table: pa.Table, settings: TrainSettings, features: FeatureSettings, report: Progress
) -> dict[Tokenisation, Vocabulary]:
    model = settings.entity.model
    hashed: dict[Tokenisation, list[Ragged]] = {cut: [] for cut in Tokenisation}
    for start in range(0, table.num_rows, _CHUNK):
        report("count tokens", start, table.num_rows)
        for cut, ragged in hash_texts(table.slice(start, _CHUNK), features).items():
            hashed[cut].append(ragged)
    report("count tokens", table.num_rows, table.num_rows)
    return {
        cut: build_vocabulary(
            (ragged.values for ragged in hashed[cut]),
            size=model.vocabulary_size,
            min_count=model.vocabulary_min_count,
            oov_ids=model.oov_ids,
        )
        for cut in Tokenisation
        if cut in model.tokenisations
    }


def _features(
    table: pa.Table, settings: FeatureSettings, vocabularies: Mapping[Tokenisation, Vocabulary], report: Progress
) -> Features:
    parts = []
    for start in range(0, table.num_rows, _CHUNK):
        report("tokenise", start, table.num_rows)
        parts.append(read_features(table.slice(start, _CHUNK), settings, vocabularies))
    report("tokenise", table.num_rows, table.num_rows)
    return Features.concatenate(parts)


def _frozen(table: pa.Table, settings: TrainSettings, pairs: Mapping[str, TaskPairs]) -> dict[str, F32]:
    """Pre-existing embeddings by column, zero where an entity has none; those that answer a pair are there."""
    out: dict[str, F32] = {}
    for name, task in settings.tasks.items():
        column = task.frozen_vector
        if column is None:
            continue
        vectors, present = vector_values(table, column, settings.query.d)
        absent = np.flatnonzero(~present[pairs[name].answers])
        if len(absent):
            entity = table.column("id")[int(pairs[name].answers[absent[0]])].as_py()
            raise InvalidData(
                f"task {name!r} has a pair with entity {entity!r}, whose {column!r} is null: embed it with its tower, "
                f"or remove such pairs ({len(absent):,} of {len(pairs[name]):,})"
            )
        out[column] = vectors
    return out


def _pool(
    settings: TrainSettings, name: str, entities: EntityTable, pairs: TaskPairs, frozen: Mapping[str, F32]
) -> I64:
    task = settings.tasks[name]
    if task.answer is Answer.QUERY:
        return np.unique(pairs.answers)
    rows = entities.of_type(task.entity_type)
    if task.frozen_vector is None:
        return rows
    rows = rows[frozen[task.frozen_vector][rows].any(axis=1)]  # a null embedding is no negative
    if len(rows) == 0:
        raise InvalidData(
            f"no entity of type {task.entity_type!r} has {task.frozen_vector!r}: correct entity_type of task {name!r}"
        )
    return rows


def _known(settings: TrainSettings, pairs: Mapping[str, TaskPairs]) -> dict[str, KnownAnswers]:
    """A true pair of any task is no negative in another task with the same kind of answer."""
    out = {}
    for kinds in ({Answer.ENTITY, Answer.FROZEN}, {Answer.QUERY}):
        names = [name for name in pairs if settings.tasks[name].answer in kinds]
        if names:
            known = KnownAnswers(
                np.concatenate([pairs[name].queries for name in names]),
                np.concatenate([pairs[name].answers for name in names]),
            )
            out.update(dict.fromkeys(names, known))
    return out
