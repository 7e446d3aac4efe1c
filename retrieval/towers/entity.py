"""The entity tower: rows of a table into unit vectors of the checkpoint's space.

For now it is the query tower's encoder over the text columns of the table. Knows nothing about files or indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from retrieval.errors import InvalidData, InvalidParams
from retrieval.towers.checkpoint import Checkpoint, read_checkpoint
from retrieval.towers.text import entity_text
from retrieval.types import F32, Metric


class EntityTower:
    """A loaded checkpoint's entity side. Any number of threads may call `encode`."""

    def __init__(self, checkpoint: Checkpoint, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise InvalidParams(f"threads = {threads} is not acceptable: entities are encoded by 1 or more")
        self._encoder = checkpoint.encoder()
        self._projection = checkpoint.projection()
        self._threads = threads
        config = checkpoint.config
        self.space_id: str = config.space_id
        self.d: int = config.d
        self.metric: Metric = config.metric
        self.text_columns: tuple[str, ...] = config.settings.text_columns

    @classmethod
    def load(cls, path: Path, *, threads: int | None = None) -> EntityTower:
        """The entity tower of the checkpoint folder `path`; StoreError or DamagedData when it cannot be trusted."""
        return cls(read_checkpoint(path), threads=threads)

    def texts(self, table: pa.Table) -> list[str]:
        """The text of each row as the tower reads it, empty where there is none; InvalidData without text columns."""
        return entity_text(table, self.text_columns)

    def encode(self, table: pa.Table) -> F32:
        """Unit vectors float32 [n, d] of n rows; InvalidData when a row has no text (see `texts`, `encode_texts`)."""
        texts = self.texts(table)
        if not all(texts):
            raise InvalidData(
                f"row {texts.index('')} has no text in {', '.join(self.text_columns)}: leave such rows out"
            )
        return self.encode_texts(texts)

    def encode_texts(self, texts: Sequence[str], *, on_batch: Callable[[int], None] | None = None) -> F32:
        """Unit vectors float32 [n, d] of n texts that `texts` gave; on_batch is told of each finished batch's size."""
        return self._projection.apply(self._encoder.encode(texts, threads=self._threads, on_batch=on_batch))
