"""What may be built: a short list of kinds and parameters that differ in what they cost, cheapest bytes first.

Rescoring is an effort, not a build: an IVF-PQ index is tried twice, with pools of candidates that are rescored and with
none beyond the answer itself. Its vectors are stored either way, since shards are merged on exact scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from index_builders import verify
from index_builders.footprint import bytes_per_row
from retrieval.params import BUILD_PARAMS, IvfpqSearch, SearchParams, make_params
from retrieval.types import IndexKind, VectorDtype


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to build; params are complete but for what a kind resolves by its rows. rescore: None but for IVF-PQ."""

    kind: IndexKind
    params: dict[str, Any]
    rescore: bool | None = None

    @property
    def name(self) -> str:
        """Kind and the parameters that tell it from its neighbours, for people."""
        told = {"m": "M", "ef_construction": "efC", "pq_dims": "dims per code"}
        parts = [str(self.kind), *(f"{told[name]} {self.params[name]}" for name in told if name in self.params)]
        if self.rescore is not None:
            parts.append("rescored" if self.rescore else "not rescored")
        return ", ".join([*parts, str(self.params["vectors"])])

    def ladder(self, params: dict[str, Any]) -> list[SearchParams]:
        """The efforts of this candidate, built with `params`, out of those that a build measures."""
        efforts = verify.efforts(self.kind, params)
        if self.rescore is None:
            return efforts
        return [e for e in efforts if isinstance(e, IvfpqSearch) and (e.rescore > verify.K) is self.rescore]


def candidates(d: int) -> list[Candidate]:
    """All candidates for d dimensions."""
    half, full = VectorDtype.FLOAT16, VectorDtype.FLOAT32
    found = [Candidate(kind=IndexKind.FLAT, params={"vectors": dtype}) for dtype in (half, full)]
    graphs = ((8, 100, half), (16, 200, half), (24, 200, half), (32, 300, half), (24, 200, full))
    for m, ef_construction, dtype in graphs:
        params = {"m": m, "ef_construction": ef_construction, "vectors": dtype}
        found.append(Candidate(kind=IndexKind.HNSW, params=params))
    for pq_dims in (4, 2, 1):
        if d % pq_dims == 0:
            params = {"pq_dims": pq_dims, "vectors": half}
            found += [Candidate(kind=IndexKind.IVFPQ, params=params, rescore=rescore) for rescore in (False, True)]
    return [_complete(each) for each in found]


def row_bytes(candidate: Candidate, params: dict[str, Any], rows: int, d: int, *, codes: bool = True) -> float:
    """Bytes per row of a shard of `rows` rows; codes: whether a graph keeps them (it drops those that cost recall)."""
    whole = bytes_per_row(candidate.kind, params, rows, d)
    return whole if codes or candidate.kind is not IndexKind.HNSW else whole - 64.0 * -(-d // 64) - 8


def _complete(candidate: Candidate) -> Candidate:
    params = make_params(BUILD_PARAMS[candidate.kind], candidate.params).model_dump(mode="json")
    kept = {name: params[name] for name in params if name in candidate.params}
    return Candidate(kind=candidate.kind, params=kept, rescore=candidate.rescore)
