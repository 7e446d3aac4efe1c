"""The systems that an evaluation holds beside each other: a checkpoint's towers, the encoder before training, BM25.

BM25 is `bm25s` (Lù 2024, arXiv 2407.03618; Robertson's formula with k1 1.5, b 0.75) over words cut by the English
Snowball stemmer. The zero-shot encoder compares its own pooled states of query and entity text. Both read the text
columns that the checkpoint reads. Knows nothing about metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from retrieval.errors import InvalidData, MissingDependency
from retrieval.towers.checkpoint import Checkpoint
from retrieval.towers.encoder import Encoder
from retrieval.towers.entity import EntityTower
from retrieval.towers.entity_parts import EntityParts, unit
from retrieval.towers.features import vector_values
from retrieval.towers.pretrained import DEFAULT_ENCODER, load_default, load_named
from retrieval.towers.query import QueryTower
from retrieval.towers.text import entity_text, query_texts
from retrieval.training.questions import Corpus, Questions
from retrieval.training.rankings import Progress, Rankings, VectorSystem
from retrieval.types import F32, Bool

TRAINED, ZERO_SHOT, BM25 = "trained", "zero-shot", "bm25"


def tower_system(
    checkpoint: Checkpoint,
    corpus: Corpus,
    questions: Sequence[Questions],
    *,
    name: str = TRAINED,
    prefixes: Sequence[int] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> VectorSystem:
    """Both towers of a checkpoint; errors as `VectorSystem` and `EntityTower.encode` raise them."""
    queries, entities = QueryTower(checkpoint, threads=threads), EntityTower(checkpoint, threads=threads)

    def encode(table: pa.Table) -> tuple[F32, Bool]:
        there = entities.present(table)
        vectors = np.zeros((table.num_rows, entities.d), dtype=np.float32)
        if there.any():
            vectors[there] = entities.encode(table if there.all() else table.filter(pa.array(there)))
        return vectors, there

    return VectorSystem(
        name,
        corpus,
        questions,
        encode_queries=queries.encode,
        encode_entities=encode,
        d=queries.d,
        prefixes=prefixes,
        progress=progress,
    )


def zero_shot_system(
    checkpoint: Checkpoint,
    corpus: Corpus,
    questions: Sequence[Questions],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> VectorSystem:
    """The text encoder as it was before training, at its own width.

    A column that holds its states already (the encoded-text feature of the checkpoint) is used instead of encoding.
    """
    parts = EntityParts.from_parts(checkpoint.parts)
    encoded = None if parts is None else parts.settings.encoded
    encoder = untrained_encoder(checkpoint, parts)
    reader = encoder if encoded is None else encoder.reading(encoded.max_tokens)
    columns = text_columns(checkpoint)

    def encode_queries(texts: Sequence[str]) -> F32:
        return unit(encoder.encode(query_texts(texts), threads=threads))

    def encode_entities(table: pa.Table) -> tuple[F32, Bool]:
        if encoded is not None and encoded.feature in table.column_names:
            return vector_values(table, encoded.feature, encoder.hidden)
        texts = entity_text(table, columns)
        there = np.array([bool(text) for text in texts], dtype=bool)
        states = np.zeros((len(texts), encoder.hidden), dtype=np.float32)
        states[there] = unit(reader.encode([text for text in texts if text], threads=threads))
        return states, there

    return VectorSystem(
        ZERO_SHOT,
        corpus,
        questions,
        encode_queries=encode_queries,
        encode_entities=encode_entities,
        d=encoder.hidden,
        progress=progress,
    )


def untrained_encoder(checkpoint: Checkpoint, parts: EntityParts | None) -> Encoder:
    """The checkpoint's own encoder where it was not trained, or the one that training started from, loaded anew."""
    tokens = checkpoint.config.settings.max_tokens
    if parts is None:
        return checkpoint.encoder()  # of a fitted checkpoint: never trained
    if parts.text_encoder is not None:
        return parts.text_encoder.reading(tokens)
    if parts.settings.encoded is not None:
        return checkpoint.encoder()  # it makes the encoded text too, so it was frozen
    name = checkpoint.config.provenance.get("encoder", DEFAULT_ENCODER)
    return load_default(max_tokens=tokens) if name == DEFAULT_ENCODER else load_named(name, max_tokens=tokens)


def text_columns(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Columns whose text the baselines read: all that the checkpoint was given as text."""
    parts = EntityParts.from_parts(checkpoint.parts)
    if parts is None or parts.settings.encoded is not None:
        return checkpoint.config.settings.text_columns
    return parts.settings.features.texts


class Bm25System:
    """Word matching: the baseline that any search engine gives."""

    name = BM25

    def __init__(self, corpus: Corpus, columns: Sequence[str]) -> None:
        """MissingDependency when bm25s or PyStemmer is not installed."""
        try:
            import bm25s
            import Stemmer
        except ImportError as error:
            raise MissingDependency(
                f"the BM25 baseline needs {error.name}, which is not installed: pip install 'retrieval[baselines]'"
            ) from None
        self._bm25s, self._stemmer = bm25s, Stemmer.Stemmer("english")
        self._table, self._columns = corpus.entities.table, tuple(columns)
        self._indexes: dict[bytes, Any] = {}  # by what is searched: tasks often share it

    def rank(self, questions: Questions, depth: int) -> Mapping[int | None, Rankings]:
        """Rankings under None; a candidate without any word of the query is not ranked."""
        index, count = self._index(questions), questions.candidates
        out: Rankings = []
        for words, own in zip(self._words(questions.texts), questions.own.tolist(), strict=True):
            known = [word for word in words if word in index.vocab_dict]
            if not known:
                out.append([])
                continue
            # the library's own selection has no tie rule
            scores = np.asarray(index.get_scores(known), dtype=np.float32)
            best = min(depth + 1, count)
            threshold = np.partition(scores, count - best)[count - best]
            kept = np.flatnonzero((scores >= threshold) & (scores > 0))
            order = kept[np.lexsort((kept, -scores[kept]))]
            out.append([row for row in order.tolist() if row != own][:depth])
        return {None: out}

    def _index(self, questions: Questions) -> Any:
        key = repr(questions.answers).encode() if questions.rows is None else questions.rows.tobytes()
        if key not in self._indexes:
            if questions.rows is None:
                texts = questions.answers
            else:
                texts = entity_text(self._table.take(pa.array(questions.rows)), self._columns)
            words = self._words(texts)
            if not any(words):
                raise InvalidData(f"task {questions.task!r} has no candidate with a word in it: BM25 cannot rank them")
            index = self._bm25s.BM25()
            index.index(words, show_progress=False)
            self._indexes[key] = index
        return self._indexes[key]

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        found: list[list[str]] = self._bm25s.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return found
