"""Canaries: the file of stored queries with the answers that the build got, and the verdict on a replay of them.

A canary is a text (where there was one), the vector that the checkpoint made of it and the expected answer: ids and
scores. Checksums prove that the bytes are the builder's; canaries prove that text, tower, vectors, index and libraries
still fit each other. Knows nothing about how a shard is searched or a text encoded: `judge` is given what came back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from retrieval.errors import DamagedData
from retrieval.store import Generation
from retrieval.store.generation import CANARIES_FILE
from retrieval.topk import check_vectors
from retrieval.types import F32, AnyArray

Encode: TypeAlias = Callable[[Sequence[str]], F32]  # texts [n] -> vectors float32 [n, d]

COUNT, K = 256, 10  # canaries of a generation, and the answers kept of each
# a library that misreads a file scores near 0; another CPU's rounding costs a tie here and there
FLOOR = 0.8
TOLERANCE = 1e-3  # of a score, relative above 1: rounding of another instruction set
# Of a text's vector to the stored one. all-MiniLM-L6-v2 on 2,000 short texts, lowest cosine: bfloat16 against float32
# 0.99992, either precision alone against in a batch 1.00000. Another tower is near 0.
LEAST_COSINE = 0.999


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """queries: float32 [c, d], ready for the index; scores: float32 [c, k], -inf where fewer rows exist.

    ids: int64 or unicode [c, k], None in files that hold none; texts: one each, "" where a canary has none; space_id:
    of the checkpoint that encoded the texts, "" where no text was.
    """

    queries: F32
    scores: F32
    ids: AnyArray | None = None
    texts: tuple[str, ...] = ()
    space_id: str = ""

    def part(self, numbers: Sequence[int]) -> Canaries:
        """Only the canaries of these numbers."""
        chosen = np.asarray(numbers, dtype=np.int64)
        return Canaries(
            queries=self.queries[chosen],
            scores=self.scores[chosen],
            ids=None if self.ids is None else self.ids[chosen],
            texts=tuple(self.texts[number] for number in chosen) if self.texts else (),
            space_id=self.space_id,
        )

    def name(self, number: int) -> str:
        """What a person calls a canary: its text, or its number."""
        text = self.texts[number] if self.texts else ""
        return f"canary {number} ({text!r})" if text else f"canary {number}"


@dataclass(frozen=True, kw_only=True)
class CanaryReport:
    """What a replay found; failure is "" when all is well, else one phrase.

    recall: share of the stored answers that came back (id and score); texts_checked: encoded anew, lowest_cosine: of
    those to their stored vectors, None without any; worst: the canary that lost most, by name, "" when none lost any.
    """

    canaries: int
    recall: float
    texts_checked: int
    lowest_cosine: float | None
    worst: str
    failure: str

    @property
    def good(self) -> bool:
        """Whether nothing has drifted."""
        return not self.failure


def read_canaries(generation: Generation) -> Canaries | None:
    """The generation's canaries, or None when it was published without; DamagedData when they cannot be read."""
    path = generation.path / CANARIES_FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            held = {name: stored[name] for name in stored.files}
            queries, scores = np.asarray(held["queries"], np.float32), np.asarray(held["scores"], np.float32)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DamagedData(f"{path} does not hold canaries: {error}") from error
    if (
        queries.ndim != 2
        or queries.shape[1] != generation.manifest.d
        or len(scores) != len(queries)
        or scores.ndim != 2
        or len(queries) == 0
    ):
        raise DamagedData(f"{path} holds queries {queries.shape} and scores {scores.shape}: one row each per canary")
    if not check_vectors(queries).all():
        raise DamagedData(f"{path} holds a query that is not finite or has norm 0; roll back or rebuild")
    ids, texts = held.get("ids"), held.get("texts")
    if (ids is not None and ids.shape != scores.shape) or (texts is not None and texts.shape != (len(queries),)):
        raise DamagedData(f"{path} holds ids or texts that do not fit its {len(queries)} queries; roll back or rebuild")
    return Canaries(
        queries=np.ascontiguousarray(queries),
        scores=scores,
        ids=ids,
        texts=() if texts is None else tuple(texts.tolist()),
        space_id=str(held["space_id"]) if "space_id" in held else "",
    )


def write_canaries(path: Path, canaries: Canaries) -> None:
    """Write `path`; the same canaries give the same bytes."""
    texts = canaries.texts or ("",) * len(canaries.queries)
    arrays: dict[str, Any] = {
        "queries": canaries.queries,
        "scores": canaries.scores,
        "texts": np.array(texts, dtype=np.str_),
        "space_id": np.array(canaries.space_id, dtype=np.str_),
    }
    if canaries.ids is not None:
        arrays["ids"] = canaries.ids
    with path.open("wb") as file:
        np.savez(file, **arrays)


def judge(
    canaries: Canaries, found_ids: Sequence[AnyArray], found_scores: Sequence[F32], *, encode: Encode | None = None
) -> CanaryReport:
    """Hold what came back for each canary, best first, against what is on record.

    found_ids, found_scores: one array [at most k] per canary, in the tie order. encode: for canaries with a text, whose
    vectors have to be the stored ones; None checks no text.
    """
    found = zip(found_ids, found_scores, strict=True)
    return judge_hits(canaries, [count_hits(canaries, number, *each) for number, each in enumerate(found)], encode)


def judge_hits(canaries: Canaries, came_back: Sequence[int], encode: Encode | None = None) -> CanaryReport:
    """As `judge`, of what `count_hits` said of each canary: for who counts beside calls that must not wait."""
    hits, wanted = np.array(came_back, float), np.isfinite(canaries.scores).sum(axis=1)
    total = wanted.sum()
    recall = float(hits.sum() / total) if total else 1.0
    lost = 1 - np.divide(hits, wanted, out=np.ones_like(hits), where=wanted > 0)
    worst = int(np.argmax(lost))
    checked, cosines = _text_cosines(canaries, encode)
    lowest = float(cosines.min()) if len(cosines) else None
    failures = []
    if lowest is not None and lowest < LEAST_COSINE:
        off = int((cosines < LEAST_COSINE).sum())
        failures.append(
            f"{off} of {len(cosines)} texts get another vector than the build's, the worst with cosine {lowest:.4f} "
            f"where {LEAST_COSINE} is needed ({canaries.name(int(checked[np.argmin(cosines)]))}): the checkpoint is "
            "another"
        )
    if recall < FLOOR:
        failures.append(
            f"{recall:.3f} of the stored answers came back, {FLOOR} are needed (worst: {canaries.name(worst)})"
        )
    return CanaryReport(
        canaries=len(canaries.queries),
        recall=recall,
        texts_checked=len(cosines),
        lowest_cosine=lowest,
        worst=canaries.name(worst) if lost[worst] > 0 else "",
        failure="; ".join(failures),
    )


def count_hits(canaries: Canaries, number: int, found_ids: AnyArray, found_scores: F32) -> int:
    """How many of the stored answers [k] of one canary were found again; with ids each has to have its own score."""
    scores, ids = canaries.scores[number], None if canaries.ids is None else canaries.ids[number]
    exists = np.isfinite(scores)
    wanted = int(exists.sum())
    if wanted == 0:
        return 0
    slack = TOLERANCE * np.maximum(1.0, np.abs(np.where(exists, scores, 0)))
    last = scores[exists].min()
    good = found_scores >= last - TOLERANCE * max(1.0, abs(float(last)))
    if ids is None:
        return min(int(good.sum()), wanted)
    came_back = 0
    seen = dict(zip(found_ids.tolist(), found_scores.tolist(), strict=True))
    for place in np.flatnonzero(exists):
        again = seen.get(ids[place].item())
        if again is not None:
            came_back += abs(again - float(scores[place])) <= slack[place]
        elif scores[place] - last <= slack[place]:  # at the cut, another entity with as good a score may stand for it
            came_back += bool(good[:wanted].sum() == wanted)
    return came_back


def _text_cosines(canaries: Canaries, encode: Encode | None) -> tuple[AnyArray, F32]:
    """Numbers [n] of the canaries with a text, and the cosine float32 [n] of each to its stored vector."""
    numbers = np.array([number for number, text in enumerate(canaries.texts) if text], dtype=np.int64)
    if encode is None or len(numbers) == 0:
        return numbers[:0], np.zeros(0, np.float32)
    made = np.asarray(encode([canaries.texts[number] for number in numbers]), dtype=np.float32)
    stored = canaries.queries[numbers]
    if made.shape != stored.shape or not check_vectors(made).all():
        return numbers, np.full(len(numbers), -1.0, np.float32)
    norms = np.linalg.norm(made, axis=1) * np.linalg.norm(stored, axis=1)
    return numbers, np.asarray(np.einsum("nd,nd->n", made, stored) / norms, dtype=np.float32)
