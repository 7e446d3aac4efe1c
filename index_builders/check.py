"""`check`: a verdict for every file of a generation, and for every shard as a whole.

Checksums come first; only a shard whose every byte is as the manifest says is opened: its structure, that no id is in
it or an earlier one twice, its vectors, its answers. Last the canaries: the answers on record must still come back.
Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index_builders.check_shard import bad_vectors, read_vectors, wrong_answers
from retrieval import topk
from retrieval.canaries import Canaries, judge, read_canaries
from retrieval.errors import DamagedData, RetrievalError
from retrieval.indexes import ShardIndex, open_index
from retrieval.params import SEARCH_PARAMS, SearchParams, make_params
from retrieval.store import Generation, Manifest, ShardFiles, checksums
from retrieval.store.generation import CANARIES_FILE, ID_COLUMN, read_manifest
from retrieval.store.manifest import MANIFEST_FILE
from retrieval.types import F32, NO_ROW, AnyArray

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found about one file or one side of a shard; finding is "" when all is well."""

    name: str
    finding: str

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.finding


@dataclass(frozen=True, kw_only=True)
class _Replay:
    """The canaries on record and what the shards answer so far, (ids, scores) by shard, for each of them."""

    canaries: Canaries
    found: list[list[tuple[AnyArray, F32]]]


def check_generation(path: Path, *, threads: int = 4, progress: Progress | None = None) -> list[Verdict]:
    """Verdicts on the manifest, every file, every shard and the canaries of the generation in folder `path`."""
    try:
        manifest = read_manifest(path)
    except RetrievalError as error:
        return [Verdict(name=MANIFEST_FILE, finding=str(error))]
    wrong = checksums.findings(path, manifest.files, threads=threads)
    return file_verdicts(manifest, wrong) + _content_verdicts(path, manifest, wrong, progress)


def file_verdicts(manifest: Manifest, wrong: Mapping[str, str]) -> list[Verdict]:
    """Verdicts on the manifest, which is good by having been read, and on every file it names or `wrong` does."""
    names = sorted({*manifest.files, *wrong})
    return [
        Verdict(name=MANIFEST_FILE, finding=""),
        *(Verdict(name=name, finding=wrong.get(name, "")) for name in names),
    ]


def _content_verdicts(
    path: Path, manifest: Manifest, wrong: Mapping[str, str], progress: Progress | None
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    replay: _Replay | None = None
    generation = Generation(path=path, manifest=manifest)
    if CANARIES_FILE in manifest.files and CANARIES_FILE not in wrong:
        try:
            canaries = read_canaries(generation)
            if canaries is not None:
                replay = _Replay(canaries=canaries, found=[[] for _ in canaries.queries])
            verdicts.append(Verdict(name=f"{CANARIES_FILE} (structure)", finding=""))
        except DamagedData as error:
            verdicts.append(Verdict(name=f"{CANARIES_FILE} (structure)", finding=str(error)))
    seen: set[object] = set()
    shards = generation.shards
    for done, shard in enumerate(shards):
        name = shard.manifest.name
        if any(file.startswith(name + "/") for file in wrong):
            verdicts.append(Verdict(name=f"{name} (structure)", finding="not opened, since a file of it is damaged"))
            replay = None  # the answers are spread over all shards
        else:
            found = _check_shard(shard, manifest, seen, replay)
            verdicts += [Verdict(name=f"{name} ({side})", finding=finding) for side, finding in found.items()]
        if progress is not None:
            progress("check", done + 1, len(shards))
    if replay is not None:
        verdicts.append(Verdict(name=f"{CANARIES_FILE} (answers)", finding=_compare(replay)))
    return verdicts


def _check_shard(shard: ShardFiles, manifest: Manifest, seen: set[object], replay: _Replay | None) -> dict[str, str]:
    """Findings by side, each "" when all is well; a side that cannot be looked at is left out."""
    try:
        ids = shard.rows().column(ID_COLUMN).to_pylist()
        index = open_index(shard.manifest.kind, shard.path)
        vectors = read_vectors(shard.path)
    except (RetrievalError, OSError, ValueError) as error:
        return {"structure": str(error)}
    found, wanted = (index.n, index.d, index.metric), (shard.manifest.rows, manifest.d, manifest.metric)
    if found != wanted:
        return {"structure": f"has (rows, dimensions, metric) {found}, the manifest says {wanted}"}
    before = len(seen)
    seen.update(ids)
    twice = before + len(ids) - len(seen)
    out = {"structure": f"{twice} ids appear more than once in this or an earlier shard" if twice else ""}
    out["vectors"] = bad_vectors(vectors, index.n, index.d, index.metric)
    if out["vectors"]:
        return out
    params = _default_search(shard, manifest)
    out["answers"] = wrong_answers(index, vectors, params, manifest.seed)
    if replay is not None:
        _answer(replay, index, np.asarray(ids, dtype=object), params)
    return out


def _default_search(shard: ShardFiles, manifest: Manifest) -> SearchParams:
    kind = shard.manifest.kind
    given: dict[str, Any] = manifest.default_search.get(kind, {})
    return make_params(SEARCH_PARAMS[kind], given)


def _answer(replay: _Replay, index: ShardIndex, ids: AnyArray, params: SearchParams) -> None:
    k = replay.canaries.scores.shape[1]
    answer = index.search(replay.canaries.queries, min(k, index.n), params)
    for i, rows in enumerate(answer.rows):
        real = rows != NO_ROW
        replay.found[i].append((ids[rows[real]], answer.scores[i][real]))


def _compare(replay: _Replay) -> str:
    k = replay.canaries.scores.shape[1]
    merged = [
        topk.merge(np.concatenate([ids for ids, _ in parts]), np.concatenate([scores for _, scores in parts]), k)
        for parts in replay.found
    ]
    return judge(replay.canaries, [ids for ids, _ in merged], [scores for _, scores in merged]).failure
