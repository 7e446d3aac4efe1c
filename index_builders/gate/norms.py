"""Norms of what the encoder made and of what is stored, and rows whose vector an earlier row has too.

Under cosine the stored vectors are of unit length, so their norms tell damage; what the encoder did is told by the
norms that the build saw before it normalised. Equal vectors are found by a 64-bit hash of their bytes (a multiply-shift
hash, Dietzfelbinger et al. 1997), 8 bytes a row. Knows nothing about ids or answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from index_builders.gate.answers import same_shards, vectors
from index_builders.gate.limits import GateLimits
from index_builders.gate.report import Finding, Histogram, Norms, finding
from index_builders.source_norms import merged
from retrieval.store import Generation, ShardFiles
from retrieval.types import F32, AnyArray, Metric

_BLOCK_ROWS = 32_768
_BINS = 20
_SOURCE = "source of "  # before the name of a generation


@dataclass(frozen=True, kw_only=True)
class Look:
    """Figures of a generation, its norms float32 [n], and those of its source where its build kept them."""

    figures: Norms
    norms: F32
    source: Norms | None


def look(new: Generation, old: Generation | None = None) -> dict[str, Look]:
    """Norms and equal vectors of all shards of both, by "old" and "new"; a shard that both have is read once."""
    seen = {shard.manifest.name: _read(shard) for shard in new.shards}
    looks = {"new": _look(new, list(seen.values()))}
    if old is None:
        return looks
    shared = same_shards(new, old)
    parts = [seen[s.manifest.name] if s.manifest.name in shared else _read(s) for s in old.shards]
    return {"old": _look(old, parts), **looks}


def figures(looks: Mapping[str, Look]) -> dict[str, Norms]:
    """The figures by name of generation, and as "source of " that name those of its source."""
    stored = {name: each.figures for name, each in looks.items()}
    return stored | {_SOURCE + name: each.source for name, each in looks.items() if each.source is not None}


def _look(generation: Generation, parts: list[tuple[F32, AnyArray]]) -> Look:
    norms = np.concatenate([part[0] for part in parts])
    hashes = np.concatenate([part[1] for part in parts])
    p01, p50, p99 = np.quantile(norms, [0.01, 0.5, 0.99])
    same = _rounded(1 - len(np.unique(hashes)) / len(norms))
    stored = Norms(
        rows=len(norms),
        mean=_rounded(norms.mean(dtype=np.float64)),
        smallest=_rounded(norms.min()),
        p01=_rounded(p01),
        p50=_rounded(p50),
        p99=_rounded(p99),
        largest=_rounded(norms.max()),
        same_vectors=same,
    )
    told = merged([shard.report for shard in generation.manifest.shards])
    source = None if told is None else Norms(**told, same_vectors=same)
    return Look(figures=stored, norms=norms, source=source)


def _read(shard: ShardFiles) -> tuple[F32, AnyArray]:
    """Norms float32 [n] and hashes uint64 [n] of the stored vectors of a shard."""
    stored = vectors(shard)
    norms, hashes = np.empty(len(stored), dtype=np.float32), np.empty(len(stored), dtype=np.uint64)
    for start in range(0, len(stored), _BLOCK_ROWS):
        block = np.ascontiguousarray(stored[start : start + _BLOCK_ROWS])
        wide = block.astype(np.float32)
        norms[start : start + len(block)] = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        hashes[start : start + len(block)] = _hashes(block)
    return norms, hashes


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
    """Findings about norms and equal vectors, by what `figures` says; without a parent there is no "old".

    Norms of sources are held against each other where both are known, else those of the stored vectors.
    """
    findings = []
    new, old = stored["new"], stored.get("old")
    sources = stored.get(f"{_SOURCE}old"), stored.get(f"{_SOURCE}new")
    off = max(abs(new.smallest - 1), abs(new.largest - 1))
    if metric is Metric.COSINE and off > limits.max_off_unit:
        sentence = (
            f"norms of the stored vectors go from {new.smallest:.4g} to {new.largest:.4g}, {off:.3g} off 1 where "
            f"{limits.max_off_unit:g} is allowed"
        )
        look_at = "what wrote the vectors: under cosine they are normalised before they are stored"
        findings.append(finding("max_off_unit", off, limits.max_off_unit, sentence, look_at))
    if old is not None and comparable:
        was, is_now, of = old, new, ""
        if sources[0] is not None and sources[1] is not None:
            was, is_now, of = sources[0], sources[1], " of the source"
        for name, before, now in (("mean", was.mean, is_now.mean), ("median", was.p50, is_now.p50)):
            shift = abs(now - before) / before
            if shift > limits.max_norm_shift:
                sentence = (
                    f"the {name} norm{of} is {now:.4g} against the parent's {before:.4g}, {shift:.1%} off where "
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


def _hashes(block: AnyArray) -> AnyArray:
    """Hash uint64 [n] of the bytes of each row; equal rows have equal ones."""
    row_bytes = block.shape[1] * block.dtype.itemsize
    word = 8 if row_bytes % 8 == 0 else block.dtype.itemsize
    words = block.view(f"u{word}").astype(np.uint64, copy=False)
    factors = np.random.default_rng(0).integers(0, 2**63, words.shape[1], dtype=np.uint64) * 2 + 1
    mixed = (words + np.uint64(1)) @ factors  # wraps round at 2^64
    return np.asarray(mixed)


def _rounded(value: float) -> float:
    return round(float(value), 6)
