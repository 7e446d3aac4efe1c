"""Canaries: stored queries with the answers that the build got, replayed before a generation may serve.

Checksums prove that the bytes are the builder's; canaries prove that this machine's libraries still read them as the
builder's did. Knows nothing about processes or stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.errors import DamagedData
from retrieval.serving import fanout
from retrieval.serving.calls import DEFAULT_EFFORT
from retrieval.serving.effort import Efforts
from retrieval.serving.shards import Shard
from retrieval.store import Generation
from retrieval.store.generation import CANARIES_FILE
from retrieval.topk import recall
from retrieval.types import F32

# a library that misreads a file scores near 0; another CPU's rounding costs a tie here and there
_FLOOR = 0.8
_TOLERANCE = 1e-3  # of a score, relative above 1: rounding of another instruction set


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """queries: float32 [c, d], ready for the index; scores: float32 [c, k], -inf where fewer rows exist."""

    queries: F32
    scores: F32


def read_canaries(generation: Generation) -> Canaries | None:
    """The generation's canaries, or None when it was published without; DamagedData when they cannot be read."""
    path = generation.path / CANARIES_FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            queries, scores = np.asarray(stored["queries"], np.float32), np.asarray(stored["scores"], np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise DamagedData(f"{path} does not hold canaries: {error}") from error
    if (
        queries.ndim != 2
        or queries.shape[1] != generation.manifest.d
        or len(scores) != len(queries)
        or scores.ndim != 2
    ):
        raise DamagedData(f"{path} holds queries {queries.shape} and scores {scores.shape}: one row each per canary")
    return Canaries(queries=queries, scores=scores)


def replay(generation: Generation, shards: Sequence[Shard], canaries: Canaries) -> float:
    """Search the canaries at the default effort; the recall against the stored answers.

    Raises DamagedData when a shard fails or when too few of the stored answers come back.
    """
    manifest = generation.manifest
    k = canaries.scores.shape[1]
    hits, reached = fanout.search_shards(
        shards, canaries.queries, k, Efforts(manifest).choose(DEFAULT_EFFORT, k).params, None
    )
    if reached.failures:
        raise DamagedData(
            f"generation {manifest.id} fails its canaries: {'; '.join(reached.failures)}; roll back or rebuild"
        )
    found = np.full(canaries.scores.shape, -np.inf, np.float32)
    for number in range(len(found)):
        merged = fanout.merge_hits(hits, number, k)
        found[number, : len(merged.scores)] = merged.scores
    share = recall(found, canaries.scores, tolerance=_TOLERANCE)
    if share < _FLOOR:
        raise DamagedData(
            f"generation {manifest.id} fails its canaries: {share:.3f} of the stored answers came back, {_FLOOR} are "
            "needed; roll back or rebuild"
        )
    return share
