"""What a build will take, told before it begins: rows, seconds, peak memory and disk, from the source's metadata.

Bytes come from the table in `index_builders.footprint`, seconds from speeds measured in a moment
(`index_builders.calibrate`) and the work that each stage does. Memory is what the system cannot take back, summed over
this process and its shard processes at the worst moment: mapped files come on top of it where there is room.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from index_builders import ivfpq
from index_builders.calibrate import GRAPH_ROWS, Speeds, calibrate
from index_builders.footprint import MEMORY, PROCESS, Part, Stage, total
from index_builders.limits import Limit, Limits, spell
from index_builders.plan import choose_kind
from index_builders.settings import BuildSettings
from index_builders.source_shape import SourceShape, read_shape
from index_builders.verify import efforts
from retrieval.errors import FailedPrecondition, InvalidData
from retrieval.params import BUILD_PARAMS, HnswSearch, IvfpqBuild, IvfpqSearch, make_params
from retrieval.types import IndexKind

GROWTH = 0.22  # the time of one insertion grows with rows ** GROWTH: measured, 1,000 to 64,000 rows of 32 and 128 d
_START_S = 1.0  # processes and libraries
_READ_FACTOR = 3.0  # of hashing and normalising a byte: decoding, dealing, writing, and hashing it twice again
_KMEANS_ROUNDS, _CODE_ROUNDS = 10, 25  # faiss ClusteringParameters of lists and of codes
_BUSY_CORES = 1.35  # the slowdown of a graph's insertions beside another's: both wait for the same memory


class Estimate(BaseModel):
    """What a build will take. All bytes are peaks but generation_bytes, which is what stays.

    memory_stages: bytes per stage, of which memory_bytes is the largest; seconds_stages: seconds of each stage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    d: int
    kind: IndexKind
    params: dict[str, object]
    shards: int
    workers: int
    seconds: float
    seconds_stages: dict[str, float]
    memory_bytes: int
    memory_stages: dict[str, int]
    disk_bytes: int
    generation_bytes: int

    def sentence(self) -> str:
        """The estimate in one line for people."""
        where = f"{self.workers} shard processes" if self.workers else "this process"
        return (
            f"estimate: {self.rows:,} rows of {self.d} dimensions, {self.shards} {self.kind} shards in {where}: about "
            f"{spell_seconds(self.seconds)}, peak memory {spell(self.memory_bytes)}, peak disk "
            f"{spell(self.disk_bytes)} of which {spell(self.generation_bytes)} stay"
        )


def estimate(
    settings: BuildSettings,
    *,
    changed: int | None = None,
    speeds: Speeds | None = None,
    shape: SourceShape | None = None,
) -> Estimate:
    """The Estimate of one build; reads metadata only, and measures this machine's `speeds` unless they are given.

    changed: shards that will be built, where the others are linked from an earlier generation; None for all. Raises
    InvalidData for a source that cannot be built from, InvalidParams for parameters that do not fit it.
    """
    shape = shape or read_shape(
        settings.source, settings.ids, id_column=settings.id_column, embedding_column=settings.embedding_column
    )
    if shape.rows < settings.shards:
        raise InvalidData(f"{shape.rows} rows cannot fill {settings.shards} shards: use far fewer --shards")
    kind = choose_kind(shape.rows // settings.shards) if settings.kind == "auto" else settings.kind
    params = make_params(BUILD_PARAMS[kind], settings.params)
    if isinstance(params, IvfpqBuild):
        params = ivfpq.resolve(params, rows=shape.rows, shards=settings.shards, d=shape.d)
    part = Part(
        rows=-(-shape.rows // settings.shards),
        all_rows=shape.rows,
        d=shape.d,
        row_bytes=shape.row_bytes,
        queries=min(settings.verify_queries, shape.rows),
        params=params.model_dump(mode="json"),
    )
    workers = os.cpu_count() or 1 if settings.workers is None else settings.workers
    built = settings.shards if changed is None else min(changed, settings.shards)
    active = min(max(1, workers), built)
    memory = memory_stages(kind, part, active, alone=workers == 0)
    disk: Callable[[Stage], float] = lambda stage: total(stage, kind, part)  # noqa: E731
    speeds = speeds or calibrate(shape.d, graph=part.params if kind is IndexKind.HNSW else None, seed=settings.seed)
    seconds = seconds_stages(kind, part, settings.shards, built, active, speeds)
    return Estimate(
        rows=shape.rows,
        d=shape.d,
        kind=kind,
        params=part.params,
        shards=settings.shards,
        workers=workers,
        seconds=round(sum(seconds.values()), 2),
        seconds_stages={stage: round(spent, 2) for stage, spent in seconds.items()},
        memory_bytes=max(memory.values()),
        memory_stages=memory,
        disk_bytes=int(disk("spool") + max(disk("settle"), disk("generation") + active * disk("scratch"))),
        generation_bytes=int(disk("generation")),
    )


def memory_stages(kind: IndexKind, part: Part, active: int, *, alone: bool) -> dict[str, int]:
    """Peak bytes of every stage with `active` shards at work at once; alone: in the process that reads as well."""
    main = total("main", kind, part)
    process = 0 if alone else PROCESS
    found = {stage: main + total(stage, kind, part) for stage in MEMORY if stage not in {"main", "train", "add"}}
    found["train"] = main + (process + total("train", kind, part) if kind is IndexKind.IVFPQ else 0)
    found["add"] = main + active * (process + total("add", kind, part))
    return {stage: int(found[stage]) for stage in MEMORY if stage in found}


def seconds_stages(
    kind: IndexKind, part: Part, shards: int, built: int, active: int, speeds: Speeds
) -> dict[str, float]:
    """Seconds of every stage, from the work in it and the speed of such work; `built` of the shards are not linked."""
    n, d, rounds = part.all_rows, part.d, -(-built // max(1, active))
    read = _READ_FACTOR * speeds.byte_s * n * (4 * d + part.row_bytes)
    train, add = 0.0, rounds * part.rows * d * 4 * speeds.byte_s
    if kind is IndexKind.IVFPQ and built:
        sample, nlist = min(n, part.params["train_rows"]), part.params["nlist"]
        train = speeds.multiply_s * sample * d * (_KMEANS_ROUNDS * nlist + _CODE_ROUNDS * 2 ** part.params["pq_bits"])
        # every row is assigned to its list twice: to order the rows, and when it is added
        add += rounds * speeds.multiply_s * part.rows * d * (2 * nlist + 2 ** part.params["pq_bits"])
    if kind is IndexKind.HNSW:
        add += rounds * graph_seconds(part.rows, speeds) * (_BUSY_CORES if active > 1 else 1.0)
    truth = speeds.score_s * part.queries * n
    ladder = part.queries * shards * sum(_search_seconds(kind, part, speeds))
    before = read + train + add + truth + ladder
    bands = min(max(1.0, 0.1 * before), 12 * ladder + truth)  # see index_builders.bands: bounded by the clock
    return {
        "start": _START_S,
        "read": read,
        "train": train,
        "add": add,
        "verify": truth + ladder + bands,
        "publish": speeds.byte_s * total("generation", kind, part),
    }


def graph_seconds(rows: int, speeds: Speeds) -> float:
    """Seconds to put `rows` rows into one graph: the speed at GRAPH_ROWS, growing as rows ** GROWTH."""
    assert speeds.graph_row_s is not None
    return rows * speeds.graph_row_s * math.pow(rows / GRAPH_ROWS, GROWTH) / (1 + GROWTH)


def _search_seconds(kind: IndexKind, part: Part, speeds: Speeds) -> list[float]:
    """Seconds of one query in one shard, for every effort of the ladder."""
    found = []
    for params in efforts(kind, part.params):
        if isinstance(params, HnswSearch):
            # an insertion searches a pool of ef_construction, and links what it found
            insertion = (speeds.graph_row_s or 0.0) * math.pow(part.rows / GRAPH_ROWS, GROWTH)
            found.append(0.6 * insertion * params.ef / part.params["ef_construction"])
        elif isinstance(params, IvfpqSearch):
            codes = params.nprobe * part.rows / part.params["nlist"]
            found.append(speeds.multiply_s * (part.d * (part.params["nlist"] + params.rescore) + 4 * codes))
        else:
            found.append(2 * speeds.score_s * part.rows)
    return found


def check_limits(estimated: Estimate, limits: Limits) -> None:
    """FailedPrecondition, naming figure, limit and way out, when the build needs more memory or disk than there is."""
    if limits.memory is not None and estimated.memory_bytes > limits.memory.size_bytes:
        raise FailedPrecondition(_refusal("memory", estimated.memory_bytes, limits.memory, _spare_memory(estimated)))
    if limits.disk is not None and estimated.disk_bytes > limits.disk.size_bytes:
        way = "free some space, build into another store, or store less per row (--vectors float16, fewer links)"
        raise FailedPrecondition(_refusal("disk", estimated.disk_bytes, limits.disk, way))


def spell_seconds(seconds: float) -> str:
    """Seconds in words: "12 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(whole, 1)} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"


def _refusal(what: str, needed: int, limit: Limit, way: str) -> str:
    return (
        f"this build would take {spell(needed)} of {what} at its peak, more than the {spell(limit.size_bytes)} of "
        f"{limit.source}: {way}"
    )


def _spare_memory(estimated: Estimate) -> str:
    """The way out that helps at the stage which needs most."""
    worst = max(estimated.memory_stages, key=lambda stage: estimated.memory_stages[stage])
    if worst == "train":
        return "use a smaller --train-rows, or another --kind"
    if worst == "add" and min(estimated.workers, estimated.shards) > 1:
        return "use fewer --workers, more --shards, or another --kind"
    if worst == "add":
        return "use more --shards, or another --kind"
    return "use more --shards" if worst == "read" else "use more --shards or fewer --verify-queries"
