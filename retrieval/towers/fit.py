"""Make the first checkpoint: a pretrained encoder and a projection fitted on a sample of the catalogue's texts.

Training replaces it with learned weights in the same format. Knows nothing about files of entities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from retrieval.errors import InvalidParams
from retrieval.towers.checkpoint import CheckpointConfig, write_checkpoint
from retrieval.towers.pretrained import DEFAULT_ENCODER, load_default, load_named
from retrieval.towers.projection import fit_projection
from retrieval.towers.text import TEXT_COLUMNS

DEFAULT_D = 256
DEFAULT_MAX_TOKENS = 64
DEFAULT_SAMPLE = 4_096


def fit_checkpoint(
    out: Path,
    *,
    texts: Sequence[str],
    encoder: str | None = None,
    d: int = DEFAULT_D,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    text_columns: Sequence[str] = TEXT_COLUMNS,
    sample: int = DEFAULT_SAMPLE,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CheckpointConfig:
    """Write a checkpoint at `out` and return its configuration.

    texts: normalised catalogue texts (`entity_text` over `text_columns`), of which `sample` are drawn with `seed`,
    empty ones left out.
    encoder: hub name or local folder; None is the shipped default. progress: (stage, done, total).
    Raises MissingDependency or DamagedData for weights that are absent or not what they should be, InvalidParams for
    too few texts or a d above the encoder's width, InvalidArgument when `out` exists.
    """
    usable = [text for text in texts if text]
    if len(usable) < d:
        raise InvalidParams(f"{len(usable)} texts are too few to fit {d} dimensions: give at least {d}")
    tower = load_default(max_tokens=max_tokens) if encoder is None else load_named(encoder, max_tokens=max_tokens)
    size = min(len(usable), max(sample, d))
    rows = np.sort(np.random.default_rng(seed).choice(len(usable), size, replace=False))
    done = 0

    def count(finished: int) -> None:
        nonlocal done
        done += finished
        if progress is not None:
            progress("fit projection", done, size)

    pooled = tower.encode([usable[row] for row in rows], threads=threads, on_batch=count)
    provenance = {
        "encoder": encoder or DEFAULT_ENCODER,
        "projection": f"uncentred PCA on {size} catalogue texts, seed {seed}",
    }
    return write_checkpoint(
        Path(out),
        encoder=tower,
        projection=fit_projection(pooled, d),
        text_columns=text_columns,
        provenance=provenance,
    )
