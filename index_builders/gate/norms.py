"""Every stored vector read once: its norm, and whether an earlier row has the same vector.

Under cosine the stored vectors are of unit length, so their norms tell damage; under inner product and L2 they tell
what the encoder did. Equal vectors are found by a 64-bit hash of their bytes (a multiply-shift hash, Dietzfelbinger et
al. 1997), 8 bytes a row. Knows nothing about ids or answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from index_builders.gate.answers import vectors
from index_builders.gate.limits import GateLimits
from index_builders.gate.report import Finding, Histogram, Norms, finding
from retrieval.store import Generation
from retrieval.types import F32, AnyArray, Metric

_BLOCK_ROWS = 32_768
_BINS = 20


@dataclass(frozen=True, kw_only=True)
class Look:
    """Figures of a generation, and its norms float32 [n]."""

    figures: Norms
    norms: F32


def look(generation: Generation) -> Look:
    """Norms and equal vectors of all shards."""
    rows = generation.manifest.rows
    norms, hashes = np.empty(rows, dtype=np.float32), np.empty(rows, dtype=np.uint64)
    factors = np.random.default_rng(0).integers(0, 2**63, generation.manifest.d, dtype=np.uint64) * 2 + 1
    done = 0
    for shard in generation.shards:
        stored = vectors(shard)
        for start in range(0, len(stored), _BLOCK_ROWS):
            block = np.ascontiguousarray(stored[start : start + _BLOCK_ROWS])
            end = done + len(block)
            norms[done:end] = np.linalg.norm(block.astype(np.float32), axis=1)
            hashes[done:end] = _hashes(block, factors)
            done = end
    p01, p50, p99 = np.quantile(norms, [0.01, 0.5, 0.99])
    figures = Norms(
        rows=rows,
        mean=_rounded(norms.mean(dtype=np.float64)),
        smallest=_rounded(norms.min()),
        p01=_rounded(p01),
        p50=_rounded(p50),
        p99=_rounded(p99),
        largest=_rounded(norms.max()),
        same_vectors=_rounded(1 - len(np.unique(hashes)) / rows),
    )
    return Look(figures=figures, norms=norms)


def histogram(looks: Mapping[str, Look]) -> Histogram:
    """Norms of the stored vectors by generation, as shares would hide a changed row count."""
    least = min(float(each.norms.min()) for each in looks.values())
    most = max(float(each.norms.max()) for each in looks.values())
    edges = np.linspace(least, max(most, least + 1e-3), _BINS + 1)
    counts = {name: np.histogram(each.norms, edges)[0].tolist() for name, each in looks.items()}
    return Histogram(
        title="Norms of the stored vectors", unit="norm", edges=[_rounded(edge) for edge in edges], counts=counts
    )


def judge(stored: Mapping[str, Norms], metric: Metric, limits: GateLimits, *, comparable: bool) -> list[Finding]:
    """Findings about norms and equal vectors; `stored` has "new" and, with a parent, "old"."""
    findings = []
    new, old = stored["new"], stored.get("old")
    off = max(abs(new.smallest - 1), abs(new.largest - 1))
    if metric is Metric.COSINE and off > limits.max_off_unit:
        sentence = (
            f"norms of the stored vectors go from {new.smallest:.4g} to {new.largest:.4g}, {off:.3g} off 1 where "
            f"{limits.max_off_unit:g} is allowed"
        )
        look_at = "what wrote the vectors: under cosine they are normalised before they are stored"
        findings.append(finding("max_off_unit", off, limits.max_off_unit, sentence, look_at))
    if old is not None and comparable:
        for name, before, now in (("mean", old.mean, new.mean), ("median", old.p50, new.p50)):
            shift = abs(now - before) / before
            if shift > limits.max_norm_shift:
                sentence = (
                    f"the {name} norm is {now:.4g} against the parent's {before:.4g}, {shift:.1%} off where "
                    f"{limits.max_norm_shift:.1%} is allowed"
                )
                look_at = "whether the embeddings were scaled, or another encoder made them under the same space id"
                findings.append(finding("max_norm_shift", shift, limits.max_norm_shift, sentence, look_at))
                break
    look_at = "entities with equal vectors in the new generation: empty texts, or one text in the place of many"
    if new.same_vectors > limits.max_same_vectors:
        sentence = (
            f"{new.same_vectors:.1%} of the rows have the vector of an earlier row, "
            f"{limits.max_same_vectors:.1%} is allowed"
        )
        findings.append(finding("max_same_vectors", new.same_vectors, limits.max_same_vectors, sentence, look_at))
    if old is not None:
        rise = new.same_vectors - old.same_vectors
        if rise > limits.max_same_vectors_rise:
            sentence = (
                f"{new.same_vectors:.1%} of the rows have the vector of an earlier row against the parent's "
                f"{old.same_vectors:.1%}, a rise of {limits.max_same_vectors_rise:.1%} is allowed"
            )
            findings.append(finding("max_same_vectors_rise", rise, limits.max_same_vectors_rise, sentence, look_at))
    return findings


def _hashes(block: AnyArray, factors: AnyArray) -> AnyArray:
    """Hash uint64 [n] of the bytes of each row; equal rows have equal ones."""
    words = block.view(f"u{block.dtype.itemsize}").astype(np.uint64)
    mixed = (words + np.uint64(1)) @ factors  # wraps round at 2^64
    return np.asarray(mixed)


def _rounded(value: float) -> float:
    return round(float(value), 6)
