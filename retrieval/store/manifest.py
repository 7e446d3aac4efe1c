"""The manifest of one generation: what was built, from what, how good it is, and the checksum of every file.

`manifest.json` is the first file read of a generation. Its schema version is checked before anything else; a key this
version does not know is an error, so that a newer format is never read half. Knows nothing about paths or indexes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import DamagedData
from retrieval.types import IdType, IndexKind, Metric, VectorDtype

SCHEMA_VERSION = 2  # 1 is read too: fields that it lacks have defaults
MANIFEST_FILE = "manifest.json"
FILTER_BANDS = (0.5, 0.1, 0.01, 0.001)  # shares of the rows that a filter allows, for which efforts are measured


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Record):
    """Size and content hash of one file, by its path relative to the generation."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Quarantine(_Record):
    """Source rows that were refused, counted by reason, with the first few ids of each."""

    counts: dict[str, int] = Field(default_factory=dict)
    examples: dict[str, list[str]] = Field(default_factory=dict)

    @property
    def total(self) -> int:
        """Rows refused for any reason."""
        return sum(self.counts.values())


class FrontierPoint(_Record):
    """Measured worth of one effort on held-out queries: recall against exact float32 search, latency of one query.

    filter_band: share of the rows, drawn at random, that a filter allowed; None without a filter. shards: how many, the
    largest, were searched one after another for these figures; None for all of the generation. query_kind: "real" for
    queries given to the build, "items" for perturbed items. recall_at_1000: None where it was not measured.
    """

    params: dict[str, Any]
    recall_at_10: float = Field(ge=0, le=1)
    recall_at_100: float = Field(ge=0, le=1)
    p50_ms: float = Field(ge=0)
    p95_ms: float = Field(ge=0)
    queries: int = Field(ge=1)
    filter_band: float | None = Field(default=None, gt=0, lt=1)
    shards: int | None = Field(default=None, ge=1)
    recall_at_1000: float | None = Field(default=None, ge=0, le=1)
    query_kind: Literal["", "real", "items"] = ""


class ScanCrossover(_Record):
    """Where a scan of the eligible rows of the largest shard takes as long as a walk of its graph, as measured.

    params, k: the effort it holds for; eligible_rows of shard_rows: nearest measured count to where both take as long,
    under random filters; scan_over_walk: ratio of their times there (1 at the crossover itself); ms: their mean time;
    rule_rows: the count below which the search scans (`kernel.scan_is_cheaper`).
    """

    params: dict[str, Any]
    k: int = Field(ge=1)
    shard_rows: int = Field(ge=1)
    eligible_rows: int = Field(ge=1)
    scan_over_walk: float = Field(ge=0)
    ms: float = Field(ge=0)
    rule_rows: int = Field(ge=1)


class ShardManifest(_Record):
    """One shard: its folder, rows, kind and the builder's own report.

    input_sha256: over the rows, parameters and versions it was built from; the same input gives the same files.
    """

    name: str = Field(pattern=r"^shard-\d{5}$")
    rows: int = Field(ge=1)
    kind: IndexKind
    build_params: dict[str, Any]
    report: dict[str, Any] = Field(default_factory=dict)
    input_sha256: str = ""


class Manifest(_Record):
    """Everything a server or a person has to know before the first index byte is read."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    id: str = Field(pattern=r"^[0-9]{6}-[0-9a-f]{8}$")
    plan_digest: str = ""  # SHA-256 of the plan (source content, parameters, versions) that this generation carries out
    parent: str | None = None
    entity_type: str
    space_id: str
    metric: Metric
    d: int = Field(ge=1)
    id_type: IdType
    vector_dtype: VectorDtype
    placement: str
    seed: int
    rows_in: int = Field(ge=0)
    rows: int = Field(ge=1)
    quarantine: Quarantine
    shards: list[ShardManifest] = Field(min_length=1)
    default_search: dict[IndexKind, dict[str, Any]]
    frontier: list[FrontierPoint]
    # by kind, at the default effort; only graphs have one, and only in shards of some thousand rows
    scan_crossover: dict[IndexKind, ScanCrossover] = Field(default_factory=dict)
    query_source: str = ""  # where the queries behind the frontier come from, in words
    warnings: list[str] = Field(default_factory=list)
    library_versions: dict[str, str]
    created_at: str
    content_sha256: str = ""  # over names and SHA-256 of `files`: the same inputs and seeds give the same one
    fast: bool = False  # built with several threads a shard: quicker, and not the same bytes again
    approved: str | None = None  # why a person published it although the gate said no
    gate: dict[str, Any] = Field(default_factory=dict)  # what the gate measured against the parent
    delta_position: int = Field(default=0, ge=0)  # writes of the delta up to this one are in the shards
    files: dict[str, FileEntry]

    def to_bytes(self) -> bytes:
        """Canonical JSON with a checksum of its own, as `from_bytes` expects it."""
        body = self.model_dump(mode="json")
        body["manifest_sha256"] = _digest(body)
        return _canonical(body)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Manifest:
        """Parse and check; DamagedData names `where` and the first thing that is wrong."""
        try:
            body = json.loads(data.decode())
        except ValueError as error:
            raise DamagedData(f"{where} is not readable JSON ({error}); roll back or rebuild this generation") from None
        if not isinstance(body, dict):
            raise DamagedData(f"{where} is not a JSON object; roll back or rebuild this generation")
        version = body.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise DamagedData(
                f"{where} has schema version {version}, this program reads up to {SCHEMA_VERSION}: install a newer one"
            )
        # compared as bytes too: some changed bytes (1e-05 and 1E-05, a lost last newline) parse to the same values
        as_written = data == _canonical(body)
        stated = body.pop("manifest_sha256", None)
        if stated != _digest(body) or not as_written:
            raise DamagedData(f"{where} does not match its own checksum; roll back or rebuild this generation")
        try:
            return cls(**body)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise DamagedData(f"{where}: field {name}: {first['msg'].lower()}") from None


def _canonical(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _digest(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
