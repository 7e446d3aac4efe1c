"""A checkpoint: a folder that holds all a tower needs, checked byte for byte before any library reads it.

    config.json               format, version, space id, settings, SHA-256 of every file, and a checksum of itself
    encoder/…                 configuration, weights (safetensors) and tokenizer of the text encoder
    projection.safetensors    the linear map to the space
    entity/…, text_encoder/…  a trained entity tower (`retrieval.towers.entity_parts`); without it, entities go through
                              the query tower's encoder

A checkpoint loads without the hub or the package its weights came from. Files are read once, hashed and parsed from the
same bytes. The space id is computed from their content, and again at load. Knows nothing about how weights were made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import DamagedData, InvalidArgument, StoreError
from retrieval.params import MAX_DIM, MIN_DIM
from retrieval.spaces import check_space_id, space_id
from retrieval.towers.encoder import MAX_TOKENS, MIN_TOKENS, Encoder
from retrieval.towers.projection import Projection
from retrieval.towers.text import NORMALISATION, TEXT_COLUMNS
from retrieval.types import Metric

FORMAT: Literal["retrieval-checkpoint"] = "retrieval-checkpoint"
VERSION = 1
CONFIG_FILE = "config.json"
ENCODER_FOLDER = "encoder"
PROJECTION_FILE = "projection.safetensors"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartEntry(_Record):
    """Size and content hash of one file of a checkpoint."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TowerSettings(_Record):
    """What shapes a vector besides weights and tokenizer; part of the space id."""

    max_tokens: int = Field(64, ge=MIN_TOKENS, le=MAX_TOKENS, description="tokens of a text that the encoder reads")
    pooling: Literal["mean"] = "mean"
    text_columns: tuple[str, ...] = Field(
        TEXT_COLUMNS, min_length=1, description="columns of an entity's text, in order"
    )


class CheckpointConfig(_Record):
    """Contents of config.json."""

    format: Literal["retrieval-checkpoint"]
    version: int = Field(ge=1, le=VERSION)
    space_id: str
    metric: Metric
    d: int = Field(ge=MIN_DIM, le=MAX_DIM)
    text_normalisation: str
    settings: TowerSettings
    compatible: tuple[str, ...] = Field((), description="foreign spaces that queries of this checkpoint may search")
    provenance: dict[str, str] = Field(default_factory=dict, description="where the weights came from, for people")
    files: dict[str, PartEntry]

    def computed_space_id(self) -> str:
        """Space id that the recorded content has."""
        content = {name: entry.sha256 for name, entry in self.files.items()}
        content["settings"] = hashlib.sha256(_canonical(self.settings.model_dump(mode="json"))).hexdigest()
        return space_id(metric=self.metric, d=self.d, text_normalisation=self.text_normalisation, content=content)

    def to_bytes(self) -> bytes:
        """JSON with a checksum of its own, as `from_bytes` expects it."""
        body = self.model_dump(mode="json")
        body["config_sha256"] = hashlib.sha256(_canonical(body)).hexdigest()
        return (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> CheckpointConfig:
        """Parse and check; DamagedData names `where` and the first thing that is wrong."""
        try:
            body = json.loads(data.decode())
        except ValueError as error:
            raise DamagedData(f"{where} is not readable JSON ({error}): copy or fit the checkpoint again") from None
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise DamagedData(f"{where} is not the configuration of a {FORMAT}: name a folder that `fit` wrote")
        version = body.get("version")
        if isinstance(version, int) and version > VERSION:
            raise DamagedData(
                f"{where} has version {version}, this program reads up to {VERSION}: install a newer program"
            )
        stated = body.pop("config_sha256", None)
        if stated != hashlib.sha256(_canonical(body)).hexdigest():
            raise DamagedData(f"{where} does not match its own checksum: copy or fit the checkpoint again")
        try:
            config = cls(**body)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise DamagedData(f"{where}: field {name}: {first['msg'].lower()}") from None
        if config.to_bytes() != data:  # a change that JSON does not see is still a change
            raise DamagedData(f"{where} is not as it was written: copy or fit the checkpoint again")
        return config


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose every byte has been checked: its configuration and the content of its files by name."""

    path: Path
    config: CheckpointConfig
    parts: Mapping[str, bytes]

    def encoder(self) -> Encoder:
        """The text encoder; DamagedData when its parts do not make one."""
        prefix = ENCODER_FOLDER + "/"
        parts = {name.removeprefix(prefix): data for name, data in self.parts.items() if name.startswith(prefix)}
        return Encoder.from_parts(parts, max_tokens=self.config.settings.max_tokens)

    def projection(self) -> Projection:
        """The projection to the space; DamagedData when it is missing or does not give d dimensions."""
        if PROJECTION_FILE not in self.parts:
            raise DamagedData(f"checkpoint {self.path} has no {PROJECTION_FILE}: fit it again")
        projection = Projection.from_bytes(self.parts[PROJECTION_FILE])
        if projection.d != self.config.d:
            raise DamagedData(f"the projection of {self.path} has {projection.d} dimensions, its space {self.config.d}")
        return projection


def write_checkpoint(
    out: Path,
    *,
    encoder: Encoder,
    projection: Projection,
    text_columns: Sequence[str] = TEXT_COLUMNS,
    compatible: Sequence[str] = (),
    provenance: Mapping[str, str] | None = None,
    more: Mapping[str, bytes] | None = None,
) -> CheckpointConfig:
    """Write a checkpoint folder at `out`: all files, fsynced, then one rename.

    more: further parts by name, which shape vectors too (a trained entity tower).
    InvalidArgument when `out` exists or the parts do not fit each other; StoreError when it cannot be written.
    """
    if projection.hidden != encoder.hidden:
        raise InvalidArgument(f"a projection of width {projection.hidden} does not fit an encoder of {encoder.hidden}")
    parts = {f"{ENCODER_FOLDER}/{name}": data for name, data in encoder.parts().items()}
    parts[PROJECTION_FILE] = projection.to_bytes()
    parts.update(more or {})
    draft = CheckpointConfig(
        format=FORMAT,
        version=VERSION,
        space_id="",
        metric=Metric.COSINE,
        d=projection.d,
        text_normalisation=NORMALISATION,
        settings=TowerSettings(max_tokens=encoder.max_tokens, text_columns=tuple(text_columns)),
        compatible=tuple(check_space_id(space) for space in compatible),
        provenance=dict(provenance or {}),
        files={name: _entry(data) for name, data in sorted(parts.items())},
    )
    config = draft.model_copy(update={"space_id": draft.computed_space_id()})
    _write_folder(Path(out), {**parts, CONFIG_FILE: config.to_bytes()})
    return config


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder whole and check every byte.

    StoreError when it is not a checkpoint folder; DamagedData when a file is missing, foreign or changed, when the
    format is newer than this program, or when the content does not make the stated space id.
    """
    path = Path(path)
    if not (path / CONFIG_FILE).is_file():
        raise StoreError(
            f"{path} is not a checkpoint: it has no {CONFIG_FILE}; name the folder of a fitted or trained one"
        )
    config = CheckpointConfig.from_bytes(_read(path / CONFIG_FILE), where=str(path / CONFIG_FILE))
    if config.text_normalisation != NORMALISATION:
        raise DamagedData(
            f"checkpoint {path} was made with text normalisation {config.text_normalisation}, this program has "
            f"{NORMALISATION}: fit it again, or use the program that made it"
        )
    parts = {}
    for name, expected in config.files.items():
        if not (path / name).is_file():
            raise DamagedData(f"checkpoint {path} is damaged: {name} is missing; copy or fit it again")
        parts[name] = _read(path / name)
        if _entry(parts[name]) != expected:
            raise DamagedData(f"checkpoint {path} is damaged: {name} does not match its SHA-256; copy or fit it again")
    if config.computed_space_id() != config.space_id:
        raise DamagedData(
            f"checkpoint {path} says space {config.space_id}, its content makes {config.computed_space_id()}: fit it "
            "again"
        )
    return Checkpoint(path=path, config=config, parts=parts)


def _write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidArgument(f"{out} exists already: remove it or choose another folder for the checkpoint")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        for name, data in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            with (partial / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for folder in {(partial / name).parent for name in files}:
            _fsync_folder(folder)
        os.rename(partial, out)
        _fsync_folder(out.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(f"cannot write checkpoint {out}: {error.strerror}") from error


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def _entry(data: bytes) -> PartEntry:
    return PartEntry(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
