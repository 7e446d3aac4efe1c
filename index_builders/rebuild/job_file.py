"""The file of a rebuild job, in TOML: every setting with its limits, checked before any work is done.

Top level: where rows come from and where the generation goes. [index]: what is built. [tune]: bounds that kind and
parameters are chosen by. [gate]: how far it may differ from the one before (`index_builders.gate.limits`). [limits]:
memory, disk, lease. Knows nothing about how it is done.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from index_builders.gate import GateLimits
from index_builders.limits import parse_size
from index_builders.settings import MAX_SHARDS
from index_builders.tune.bounds import Bounds
from retrieval.errors import InvalidParams
from retrieval.store.lease import MAX_LEASE_S, MIN_LEASE_S
from retrieval.store.local import check_entity_type
from retrieval.store.place import is_url
from retrieval.types import IndexKind, Metric

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IndexTable(_Table):
    """[index]: what is built of the rows, and what it has to be worth."""

    shards: int = Field(1, ge=1, le=MAX_SHARDS, description="parts; a changed row costs the building of its part only")
    kind: IndexKind | Literal["auto"] = Field("auto", description="flat, hnsw or ivfpq; auto chooses by rows per shard")
    metric: Metric = Field(Metric.COSINE, description="cosine, ip or l2")
    params: dict[str, Any] = Field(default_factory=dict, description="build parameters of the kind")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of sampling, training and graph levels")
    fast: bool = Field(False, description="several threads per shard: quicker, and other bytes each time")
    workers: int | None = Field(None, ge=0, le=256, description="shard processes; none given: one per core")
    target_recall: float = Field(0.95, ge=0, le=1, description="recall@100 that the default effort has to reach")
    min_recall: float = Field(0.80, ge=0, le=1, description="recall@100 below which the build fails")
    verify_queries: int = Field(200, ge=1, le=100_000, description="queries that recall is measured with")
    carry_above: float = Field(
        0.90,
        ge=0,
        le=1,
        description="share of the rows, in shards unchanged since a full measurement, from which on its bands, "
        "crossover and efforts beside the default are kept; the default's recall is always measured",
    )
    max_quarantined: float = Field(0.01, ge=0, le=1, description="share of refused rows above which the build fails")
    max_drift: float = Field(
        0.10,
        ge=0,
        le=10,
        description="ivfpq: by which share the mean squared distance of a sample to its list centroids may exceed that "
        "of the training sample; above, the quantizer is trained anew and every shard built",
    )


class LimitsTable(_Table):
    """[limits]: what the job may take."""

    memory: str | None = Field(None, description="peak memory, such as 12G; not given: what is free or granted")
    disk: str | None = Field(None, description="peak disk, such as 100G; not given: what is free")

    @field_validator("memory", "disk")
    @classmethod
    def _check_size(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_size(value, "it")
            except InvalidParams:
                raise ValueError("give a number with K, M, G, T or KiB ... TiB, as in 12G") from None
        return value

    lease_s: float = Field(
        30.0, ge=MIN_LEASE_S, le=MAX_LEASE_S, description="seconds for which a dead job keeps others from publishing"
    )


class JobSettings(_Table):
    """One job. Construct with `read_job`, which turns a bad value into one sentence."""

    entity_type: str = Field(description="what the rows are, such as pin or product")
    source: str = Field(description="Parquet or Arrow file, or a folder of them: local, or any fsspec URL")
    store: str = Field(description="store to publish into: a folder, or a URL")
    work: Path | None = Field(
        None, description="folder for the state of the job; not given: STORE.work beside a local store"
    )
    id_column: str = Field("id", description="column of the ids")
    embedding_column: str = Field("embedding", description="column of the embeddings, where the source has them")
    space_id: str | None = Field(None, description="space of the embeddings; needed where nothing else tells it")
    checkpoint: Path | None = Field(
        None, description="checkpoint folder that embeds what has no embedding of its space, and encodes texts"
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field("float32", description="of the checkpoint's text encoder")
    part_rows: int = Field(2_048, ge=1, le=1_048_576, description="entities embedded before they are put on record")
    threads: int | None = Field(None, ge=1, le=1_024, description="threads that embed; not given: all cores")
    queries: Path | None = Field(None, description="real query embeddings to measure and judge with")
    canary_texts: Path | None = Field(None, description="query texts whose vectors and answers are kept as canaries")
    delta: bool = Field(True, description="fold the writes of the delta into the generation")
    keep: int = Field(3, ge=1, le=1_000, description="generations that stay, to roll back to")
    index: IndexTable = Field(default_factory=IndexTable, description="what is built")  # type: ignore[arg-type]
    gate: GateLimits = Field(default_factory=GateLimits, description="how far the result may differ")
    tune: Bounds | None = Field(None, description="bounds that kind and parameters are chosen by, once")
    limits: LimitsTable = Field(default_factory=LimitsTable, description="what it may take")  # type: ignore[arg-type]

    def work_folder(self) -> Path:
        """Where the job keeps its state; InvalidParams for a store at a URL and no folder named."""
        if self.work is not None:
            return self.work
        if is_url(self.store):
            raise InvalidParams(f"store = {self.store!r} is a URL: name a local folder for the job's state with work")
        store = Path(self.store)
        return store.with_name(f"{store.name}.work") / self.entity_type


def read_job(path: Path) -> JobSettings:
    """The job in a TOML file, relative paths taken from the file's folder; InvalidParams names the first mistake."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidParams(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidParams(f"{path} cannot be read as the TOML file of a job: {error}") from None
    try:
        job = JobSettings(**body)
    except ValidationError as error:
        raise InvalidParams(_sentence(path, error)) from None
    check_entity_type(job.entity_type)
    if job.tune is not None:
        _check_open(path, job.index)
    home = path.absolute().parent
    named = {
        name: home / getattr(job, name)
        for name in ("work", "checkpoint", "queries", "canary_texts")
        if getattr(job, name) is not None
    }
    places = {
        name: getattr(job, name) if is_url(getattr(job, name)) else str(home / getattr(job, name))
        for name in ("source", "store")
    }
    job = job.model_copy(update={**named, **places})
    job.work_folder()
    return job


def _check_open(path: Path, index: IndexTable) -> None:
    """InvalidParams when [index] says what [tune] is to choose."""
    for name in ("kind", "params", "target_recall"):
        if name in index.model_fields_set and getattr(index, name) != IndexTable.model_fields[name].get_default(
            call_default_factory=True
        ):
            told = getattr(index, name)
            raise InvalidParams(f"index.{name} = {told!r} in {path} is what [tune] chooses: leave one of the two out")


_TABLES: dict[str, type[BaseModel]] = {"index": IndexTable, "gate": GateLimits, "tune": Bounds, "limits": LimitsTable}


def _sentence(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    # of a choice of types pydantic names the one it tried last, which is no key of the file
    name = ".".join(str(part) for part in first["loc"] if str(part).isidentifier())
    if first["type"] == "missing":
        return f"setting {name} is missing in {path}"
    if first["type"] == "extra_forbidden":
        table: type[BaseModel] = JobSettings
        for part in first["loc"][:-1]:
            table = _TABLES[str(part)]
        return f"{path} has no setting {name!r}; the settings there are {', '.join(table.model_fields)}"
    message = first["msg"]  # a validator of ours wrote its own, with units that are not to be lowered
    told = message.removeprefix("Value error, ") if first["type"] == "value_error" else message.lower()
    return f"{name} = {first['input']!r} in {path} is not acceptable: {told}"
