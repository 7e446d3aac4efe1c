"""The query tower: query texts into unit vectors of the checkpoint's space. Knows nothing about entities or servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrieval.errors import InvalidParams
from retrieval.towers.checkpoint import Checkpoint, read_checkpoint
from retrieval.towers.encoder import Precision
from retrieval.towers.text import query_texts
from retrieval.types import F32, Metric


class QueryTower:
    """A loaded checkpoint's query side. Any number of threads may call `encode`."""

    def __init__(
        self, checkpoint: Checkpoint, *, threads: int | None = None, precision: Precision | str = Precision.FLOAT32
    ) -> None:
        """precision: of the forward pass, as `Encoder.computing_in` takes it; the space id is that of the weights."""
        if threads is not None and threads < 1:
            raise InvalidParams(f"threads = {threads} is not acceptable: a query is encoded by 1 or more")
        self._encoder = checkpoint.encoder().computing_in(precision)
        self.precision = self._encoder.precision
        self._projection = checkpoint.projection()
        self._threads = threads
        config = checkpoint.config
        self.space_id: str = config.space_id
        self.compatible: tuple[str, ...] = config.compatible
        self.d: int = config.d
        self.metric: Metric = config.metric

    @classmethod
    def load(
        cls, path: Path, *, threads: int | None = None, precision: Precision | str = Precision.FLOAT32
    ) -> QueryTower:
        """The query tower of the checkpoint folder `path`; StoreError or DamagedData when it cannot be trusted.

        threads: of torch per call of `encode`; None leaves torch's own setting. precision: as for a new tower.
        """
        return cls(read_checkpoint(path), threads=threads, precision=precision)

    def encode(self, texts: Sequence[str]) -> F32:
        """Unit vectors float32 [n, d] of n query texts; InvalidQuery for an empty text or one above the limit."""
        return self._projection.apply(self._encoder.encode(query_texts(texts), threads=self._threads))
