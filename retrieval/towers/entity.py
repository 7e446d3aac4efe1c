"""The entity tower: rows of a table into unit vectors of the checkpoint's space.

A trained checkpoint has a network of its own for entities (`retrieval.towers.entity_parts`), which reads every feature
that a row has; one that was only fitted sends the text columns through the query tower's encoder. Knows nothing about
files or indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from retrieval.errors import DamagedData, InvalidData, InvalidParams
from retrieval.towers.checkpoint import Checkpoint, read_checkpoint
from retrieval.towers.encoder import Encoder, Precision, torch_threads
from retrieval.towers.entity_model import FeatureBatch
from retrieval.towers.entity_parts import EntityParts, unit
from retrieval.towers.features import read_features, vector_column
from retrieval.towers.projection import Projection
from retrieval.towers.text import entity_text
from retrieval.types import F32, Bool, Metric

OnBatch = Callable[[int], None]

_CHUNK = 2_048  # entities of one pass through the network


class EntityTower:
    """A loaded checkpoint's entity side. Any number of threads may call `encode`."""

    def __init__(
        self, checkpoint: Checkpoint, *, threads: int | None = None, precision: Precision | str = Precision.FLOAT32
    ) -> None:
        """precision: of the text encoder, as `Encoder.computing_in` takes it; the network itself is float32."""
        if threads is not None and threads < 1:
            raise InvalidParams(f"threads = {threads} is not acceptable: entities are encoded by 1 or more")
        config = checkpoint.config
        self.space_id: str = config.space_id
        self.d: int = config.d
        self.metric: Metric = config.metric
        self.text_columns: tuple[str, ...] = config.settings.text_columns
        self.precision: str = "float32"  # of the text encoder, where there is one
        parts = EntityParts.from_parts(checkpoint.parts)
        self._network: _Network | _TextOnly
        if parts is None:
            encoder = checkpoint.encoder().computing_in(precision)
            self.precision = str(encoder.precision)
            self._network = _TextOnly(encoder, checkpoint.projection(), self.text_columns, threads)
        else:
            self._network = _Network(parts, checkpoint, threads, precision)
            self.precision = self._network.precision

    @classmethod
    def load(
        cls, path: Path, *, threads: int | None = None, precision: Precision | str = Precision.FLOAT32
    ) -> EntityTower:
        """The entity tower of the checkpoint folder `path`; StoreError or DamagedData when it cannot be trusted."""
        return cls(read_checkpoint(path), threads=threads, precision=precision)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that `encode` reads where a table has it."""
        return self._network.columns

    def present(self, table: pa.Table) -> Bool:
        """bool [n]: which rows have anything that the tower reads.

        InvalidData when the table has none of its columns, or one of a wrong type or dimension.
        """
        return self._network.present(table)

    def encode(self, table: pa.Table, *, on_batch: OnBatch | None = None) -> F32:
        """Unit vectors float32 [n, d] of n rows; on_batch is told how many rows each batch finished.

        InvalidData when a row has nothing that the tower reads (see `present`).
        """
        return self._network.encode(table, on_batch)


class _TextOnly:
    reads = "text"

    def __init__(self, encoder: Encoder, projection: Projection, columns: tuple[str, ...], threads: int | None) -> None:
        self._encoder, self._projection, self._threads, self.columns = encoder, projection, threads, columns

    def present(self, table: pa.Table) -> Bool:
        return np.array([bool(text) for text in entity_text(table, self.columns)], dtype=bool)

    def encode(self, table: pa.Table, on_batch: OnBatch | None) -> F32:
        texts = entity_text(table, self.columns)
        _check_present(np.array([bool(text) for text in texts], dtype=bool), 0, self.reads, self.columns)
        return self._projection.apply(self._encoder.encode(texts, threads=self._threads, on_batch=on_batch))


class _Network:
    reads = "feature"

    def __init__(
        self, parts: EntityParts, checkpoint: Checkpoint, threads: int | None, precision: Precision | str
    ) -> None:
        self._settings, self._vocabularies, self._threads = parts.settings, parts.vocabularies, threads
        self._model = parts.model.fold()
        self._encoder: Encoder | None = None
        self.precision = "float32"
        encoded = parts.settings.encoded
        columns = [*parts.settings.features.texts, *parts.settings.features.vectors]
        if encoded is not None:
            encoder = parts.text_encoder or checkpoint.encoder().reading(encoded.max_tokens)
            self._encoder = encoder.computing_in(precision)
            self.precision = str(self._encoder.precision)
            columns += [name for name in encoded.columns if name not in columns]
        self.columns = tuple(columns)

    def present(self, table: pa.Table) -> Bool:
        if not set(self.columns) & set(table.column_names):
            raise InvalidData(
                f"no feature of the tower: the table has {', '.join(table.column_names) or 'no columns'}, "
                f"the tower reads {', '.join(self.columns)}; rename a column to one of these"
            )
        there = read_features(table, self._settings.features, self._vocabularies).present.any(axis=1)
        encoded = self._settings.encoded
        if (
            encoded is not None
            and encoded.feature not in table.column_names
            and set(encoded.columns) & set(table.column_names)
        ):
            there |= np.array([bool(text) for text in entity_text(table, encoded.columns)], dtype=bool)
        return np.asarray(there)

    def encode(self, table: pa.Table, on_batch: OnBatch | None) -> F32:
        out = np.empty((table.num_rows, self._settings.d), dtype=np.float32)
        threads = self._threads or torch.get_num_threads()

        def embed(start: int) -> None:
            chunk = table.slice(start, _CHUNK)
            each = 1 if table.num_rows > _CHUNK else threads
            with torch_threads(each), torch.inference_mode():
                features = read_features(self._with_encoded(chunk, each), self._settings.features, self._vocabularies)
                _check_present(np.asarray(features.present.any(axis=1)), start, self.reads, self.columns)
                out[start : start + _CHUNK] = self._model(FeatureBatch.of(features)).numpy()

        starts = range(0, table.num_rows, _CHUNK)
        # chunks side by side on one thread each beat matrix products split over threads
        with ThreadPoolExecutor(threads, thread_name_prefix="entities") as pool:
            for start, _ in zip(starts, pool.map(embed, starts), strict=True):
                if on_batch is not None:
                    on_batch(min(_CHUNK, table.num_rows - start))
        if not np.isfinite(out).all():
            raise DamagedData("the entity tower gave a non-finite vector: its weights are not usable, train it again")
        return out

    def _with_encoded(self, table: pa.Table, threads: int) -> pa.Table:
        """The table with the encoded-text feature, made here unless it has one."""
        encoded = self._settings.encoded
        if self._encoder is None or encoded is None or encoded.feature in table.column_names:
            return table
        if not set(encoded.columns) & set(table.column_names):
            return table
        texts = entity_text(table, encoded.columns)
        there = np.array([bool(text) for text in texts], dtype=bool)
        vectors = np.zeros((len(texts), self._encoder.hidden), dtype=np.float32)
        vectors[there] = unit(self._encoder.encode([text for text in texts if text], threads=threads))
        return table.append_column(encoded.feature, vector_column(vectors, present=there))


def _check_present(there: Bool, start: int, reads: str, columns: Sequence[str]) -> None:
    if not there.all():
        row = start + int(np.flatnonzero(~there)[0])
        raise InvalidData(f"row {row} has no {reads} in {', '.join(columns)}: leave such rows out")
