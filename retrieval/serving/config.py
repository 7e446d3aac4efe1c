"""Settings of the server: each with its default, its limits and the reason a person would change it.

Frozen; an unknown key is an error. Reads no file and no environment variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from retrieval.errors import InvalidParams
from retrieval.serving.admission import AdmissionSettings
from retrieval.serving.calls import Limits
from retrieval.serving.delta.settings import DeltaSettings
from retrieval.serving.live_recall import LiveRecallSettings
from retrieval.serving.pressure import PressureSettings
from retrieval.serving.swap.settings import FollowSettings
from retrieval.serving.text.settings import EncodeSettings
from retrieval.store.place import is_url

MIB = 1024 * 1024


class ServingSettings(BaseModel):
    """Everything `retrieval serve` can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path | str = Field(
        description="store whose live generations are served: a folder, or a URL such as s3://bucket/store, which "
        "needs follow.cache",
    )
    checkpoint: Path | None = Field(None, description="query tower; without one only vectors and entities are searched")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 opens it to other hosts")
    port: int = Field(8980, ge=0, le=65_535, description="port to listen on; 0 picks a free one")
    threads: int = Field(
        0,
        ge=0,
        le=1_024,
        description="calls at work at once in each worker; 0 takes twice its share of the cores, so that cheap "
        "calls do not wait behind deep ones",
    )
    shard_threads: int = Field(
        0,
        ge=0,
        le=256,
        description="threads that search one call's shards side by side; 0 searches them in sequence, which gives the "
        "most queries per second once calls come together; a pool shortens a lone call on idle cores",
    )
    torch_threads: int = Field(
        0, ge=0, le=256, description="threads of the tower for one text; 0 takes one per core; lower it under load"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="what the tower computes in; auto takes bfloat16, which is faster, where the CPU has it and a "
        "check at load finds it near float32 (cosine from 0.99)",
    )
    searches_at_once: int = Field(
        0,
        ge=0,
        le=1_024,
        description="searches of one IVF-PQ shard that run side by side; those that come meanwhile go together in "
        "batches, which read each list once for all; 0 takes the cores of this process's share",
    )
    filter_cache_mib: int = Field(
        256,
        ge=0,
        le=65_536,
        description="memory of each process for the row bitmaps of filters, shared out evenly among the shards of an "
        "entity type; a filter that is not kept is compared with every row again",
    )
    encode: EncodeSettings = Field(
        EncodeSettings(), description="how query texts become vectors: cache, batches, warm-up"
    )
    admission: AdmissionSettings = Field(
        AdmissionSettings(), description="how many calls wait for a turn, and which go first"
    )
    pressure: PressureSettings = Field(
        PressureSettings(), description="when calls wait too long: how recall is given up, step by step"
    )
    live_recall: LiveRecallSettings = Field(
        LiveRecallSettings(), description="how many answers are searched again exactly, in idle time"
    )
    follow: FollowSettings = Field(
        FollowSettings(), description="what a running server does when the store publishes another generation"
    )
    delta: DeltaSettings = Field(
        DeltaSettings(), description="fresh entities: upserts and deletes beside the live generation"
    )
    role: Literal["all", "shard", "broker"] = Field(
        "all",
        description="all serves a store alone; shard is a leaf, which answers a broker; broker asks leaves and reads "
        "no store",
    )
    shards: str | None = Field(
        None,
        description="of a broker its leaves, host:port,host:port or dns:name:port for every address of a name; of a "
        "leaf what it loads, such as product:0,2;pin:1, all without it",
    )
    leaf_timeout_seconds: float = Field(
        1.0, gt=0, le=60, description="longest wait for a leaf; what did not answer by then costs coverage"
    )
    leaf_deadline_share: float = Field(
        0.8, gt=0, le=1, description="share of a call's remaining time that leaves get; the rest is for merging"
    )
    eject_after_failures: int = Field(
        3, ge=1, le=1_000, description="failures in a row after which a leaf is no longer asked until a probe succeeds"
    )
    probe_interval_seconds: float = Field(
        0.5, gt=0, le=60, description="time between two looks at the leaves; ejected ones come back after about as long"
    )
    resolve_interval_seconds: float = Field(
        5.0, gt=0, le=3_600, description="time between two looks at the addresses of dns:name:port; leaves follow them"
    )
    leaf_ca: Path | None = Field(
        None, description="of a broker: PEM file of the authority of its leaves' certificates; it speaks TLS to them"
    )
    leaf_certificate: Path | None = Field(
        None, description="of a broker: PEM file that it shows to leaves which ask for a certificate"
    )
    leaf_key: Path | None = Field(None, description="PEM file with the private key of leaf_certificate")
    leaf_token_file: Path | None = Field(
        None, description="of a broker: file with the token that it sends to its leaves, which know it by its SHA-256"
    )
    hedge_budget: float = Field(
        0.05, ge=0, le=1, description="extra calls to a second replica when the first is slow, as a share of all calls"
    )
    completeness: float = Field(
        0.9999,
        gt=0,
        le=1,
        description="probability that the merged top k misses nothing; below 1 leaves return fewer candidates each",
    )
    drain_seconds: float = Field(
        10.0, ge=0, le=3_600, description="time that calls in flight get on SIGTERM; longer than the longest deadline"
    )
    max_batch: int = Field(1_000, ge=1, le=100_000, description="queries or texts in one call; bounds its time")
    max_candidates: int = Field(
        1_000_000, ge=10_000, le=100_000_000, description="queries x k x entity types of one call; bounds its memory"
    )
    max_message_bytes: int = Field(
        16 * MIB, ge=1_024, le=512 * MIB, description="size of a request; bounds the memory an unread call costs"
    )
    max_answer_bytes: int = Field(
        64 * MIB, ge=1_024, le=1_024 * MIB, description="size of an answer; attributes make it large"
    )
    probe_seconds: float = Field(
        600.0, gt=0, le=86_400, description="time a new generation gets to be opened and probed in a child process"
    )
    checksum_threads: int = Field(4, ge=1, le=64, description="files checked side by side while a generation is opened")

    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="processes that share the port; one Python process keeps little more than one core busy, and index "
        "files are mapped, so that workers share their memory",
    )
    connection_seconds: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="age at which a connection is asked to connect again, 0 for never; with workers or replicas it "
        "spreads callers anew after a restart",
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65_535, description="HTTP port of /metrics, /healthz and /readyz; without one there is none"
    )
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="address of the metrics port, which knows neither TLS nor tokens"
    )
    log_format: Literal["text", "json"] = Field("text", description="json writes a line per event for a log collector")
    log_calls: Literal["none", "errors", "all"] = Field(
        "errors", description="calls that leave a line in the log; all costs a line per call"
    )
    traces_endpoint: str | None = Field(
        None, description="OTLP collector, such as http://localhost:4317; without one no traces are kept"
    )
    traces_share: float = Field(
        0.01, ge=0, le=1, description="share of the calls traced whose caller did not decide it already"
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the server's certificate chain; new files are taken up without a restart"
    )
    tls_key: Path | None = Field(None, description="PEM file with the private key of tls_certificate")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the authorities of callers; with it a caller must show a certificate"
    )
    tokens: Path | None = Field(
        None, description="TOML file of callers, their tokens' SHA-256 and quotas; with it every call needs a token"
    )

    @field_validator("store")
    @classmethod
    def _path_unless_url(cls, value: Path | str) -> Path | str:
        return value if is_url(value) else Path(value)

    @property
    def limits(self) -> Limits:
        """The limits that calls are held to."""
        return Limits(
            max_batch=self.max_batch, max_candidates=self.max_candidates, max_message_bytes=self.max_message_bytes
        )


def make_settings(**values: Any) -> ServingSettings:
    """Settings from keywords; InvalidParams names the first bad one, its value and its limits."""
    if values.get("role") == "broker":
        values.setdefault("store", Path())  # it reads none
    try:
        settings = ServingSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(_names(ServingSettings, first["loc"][:-1]))
            raise InvalidParams(f"there is no setting {name!r}; the settings are {known}") from None
        if first["type"] == "missing":
            raise InvalidParams(f"setting {name} is missing: give --{name}, or {name} in the configuration") from None
        raise InvalidParams(f"setting {name} = {first['input']!r} is not acceptable: {first['msg'].lower()}") from None
    _check_together(settings)
    return settings


def _names(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    for part in place:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)


def _check_together(settings: ServingSettings) -> None:
    texts = settings.encode
    if texts.max_queue < texts.max_batch:
        raise InvalidParams(
            f"encode.max_queue = {texts.max_queue} is below encode.max_batch = {texts.max_batch}: raise it, so that a "
            "batch fits"
        )
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        there, missing = ("tls_key", "tls_certificate")[:: 1 if settings.tls_key else -1]
        raise InvalidParams(f"{there} is set without {missing}: a certificate and its key go together")
    if settings.tls_client_ca is not None and settings.tls_certificate is None:
        raise InvalidParams("tls_client_ca is set without tls_certificate: callers are checked over TLS only")
    if (settings.leaf_certificate is None) != (settings.leaf_key is None):
        there, missing = ("leaf_key", "leaf_certificate")[:: 1 if settings.leaf_key else -1]
        raise InvalidParams(f"{there} is set without {missing}: a certificate and its key go together")
    for name in ("leaf_ca", "leaf_certificate", "leaf_token_file"):
        if settings.role != "broker" and getattr(settings, name) is not None:
            raise InvalidParams(f"{name} is set with role = {settings.role!r}: only a broker has leaves, leave it out")
