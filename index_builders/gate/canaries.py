"""The canaries of a build: which queries they are, and their replay before a generation may be published.

Texts that a person gives come first, encoded by the checkpoint that will encode queries; what is missing to 256 are
real queries or perturbed items, without a text. Knows nothing about stores or servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index_builders import queries as query_files
from index_builders import query_texts
from index_builders.gate import answers
from retrieval.canaries import COUNT, CanaryReport, Encode, judge, read_canaries
from retrieval.errors import BuildFailed, InvalidData, InvalidParams, SpaceMismatch
from retrieval.spaces import check_compatible
from retrieval.store import Generation, Manifest
from retrieval.store.generation import read_manifest
from retrieval.topk import normalise
from retrieval.types import F32, AnyArray, Metric


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """queries: float32 [c, d]; texts: one each, "" for those that come from no text; space_id: of their encoder."""

    queries: F32
    texts: tuple[str, ...]
    space_id: str


def read_texts(path: Path, *, count: int = COUNT, seed: int = 0) -> list[str]:
    """At most `count` different texts of a text file (one a line) or of a `text` or `query` column, drawn by `seed`.

    InvalidData when there is no file, no such column, or no text in it.
    """
    if not path.exists():
        raise InvalidData(f"canary texts {path} do not exist: name a text file, one text a line, or a Parquet file")
    texts = list(dict.fromkeys(query_texts.read_texts(path)))
    if len(texts) > count:
        drawn = np.random.default_rng([seed, 5]).choice(len(texts), size=count, replace=False)
        texts = [texts[i] for i in np.sort(drawn)]
    return texts


def check(path: Path, checkpoint: Path | None, space_id: str, d: int) -> str:
    """The space of the checkpoint that is to encode the texts of `path`; checked before any work is done.

    InvalidParams for texts without a checkpoint, SpaceMismatch for one whose vectors may not search space `space_id` of
    `d` dimensions, InvalidData for texts that cannot be read, StoreError or DamagedData for a bad checkpoint.
    """
    if checkpoint is None:
        raise InvalidParams("canary texts need the checkpoint that encodes queries: name it with --checkpoint")
    from retrieval.towers.checkpoint import read_checkpoint  # brings torch, which a build without texts does not need

    config = read_checkpoint(checkpoint).config
    check_compatible(config.space_id, space_id, compatible=config.compatible)
    if config.d != d:
        raise SpaceMismatch(f"checkpoint {checkpoint} makes {config.d} dimensions, the build has {d}")
    read_texts(path)
    return str(config.space_id)


def choose(
    vectors: Sequence[AnyArray],
    *,
    d: int,
    metric: Metric,
    space_id: str,
    seed: int,
    queries: Path | None = None,
    texts: Path | None = None,
    checkpoint: Path | None = None,
) -> Chosen:
    """256 queries for a generation of `vectors` [n_i, d] (fewer where there are fewer rows and nothing else is given).

    Raises what `check` does.
    """
    parts: list[F32] = []
    named: list[str] = []
    encoder = ""
    if texts is not None:
        encoder = check(texts, checkpoint, space_id, d)
        assert checkpoint is not None
        named = read_texts(texts, seed=seed)
        from retrieval.towers.query import QueryTower  # brings torch, which a build without texts does not need

        tower = QueryTower.load(checkpoint, threads=1)
        encoded = tower.encode(named)
        parts.append(normalise(encoded) if metric is Metric.COSINE else encoded)
    missing = COUNT - len(named)
    if missing and queries is not None:
        parts.append(query_files.read_queries(queries, d, metric, missing, seed))
    elif missing:
        parts.append(query_files.perturbed_items(vectors, metric, missing, seed))
    xq = np.concatenate(parts)
    return Chosen(queries=xq, texts=(*named, *[""] * (len(xq) - len(named))), space_id=encoder)


def measure(generation: Generation, *, encode: Encode | None = None) -> CanaryReport | None:
    """Replay a generation's canaries on its files at the default effort; None when it holds none.

    encode: texts to vectors; None checks no text. DamagedData when a file cannot be read.
    """
    canaries = read_canaries(generation)
    if canaries is None:
        return None
    found = answers.search(generation, canaries.queries, canaries.scores.shape[1], rescore=False)
    return judge(canaries, found.ids, found.scores, encode=encode)


def replay_built(path: Path, *, manifest: Manifest | None = None, encode: Encode | None = None) -> CanaryReport | None:
    """Replay the canaries of the built generation in folder `path`, before the pointer moves to it.

    manifest: of a folder that is still staged under another name; None reads it. encode: checks the texts anew, by the
    checkpoint that will serve. None when there are no canaries. BuildFailed when they do not come back.
    """
    generation = Generation(path=path, manifest=read_manifest(path) if manifest is None else manifest)
    report = measure(generation, encode=encode)
    if report is not None and not report.good:
        raise BuildFailed(
            f"generation {generation.manifest.id} fails its canaries: {report.failure}; it is not "
            "published, build it again"
        )
    return report
