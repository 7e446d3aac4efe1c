"""A place that holds named files: a folder or a URL, with the few operations that leases, pointers and mirrors need.

What makes a place safe for two jobs at once is the conditional write: `create` writes only where nothing is, `replace`
only over the version that was read. Folders do it under a file lock (`folder`), buckets by the server (`bucket`). Knows
nothing about generations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_FILE_URL = re.compile(r"(?:file|local)://")


class RemoteSettings(BaseModel):
    """How a URL is reached: bounds on tries and waits, and what its fsspec backend wants to know.

    options: keyword arguments of the backend, for example {"endpoint_url": ..., "key": ..., "secret": ...} of s3fs;
    what is not given comes from where the backend looks (AWS_* variables, its configuration files). One call is tried
    `attempts` times by the backend, and a try ends after `connect_timeout_s` or `read_timeout_s`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int = Field(default=8, ge=1, le=64)
    chunk_bytes: int = Field(default=8 << 20, ge=1 << 12, le=1 << 30)
    attempts: int = Field(default=4, ge=1, le=20)
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300)
    read_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Held:
    """The bytes of a small file as they were read or written; version: what a conditional write compares."""

    data: bytes
    version: str


class Place(Protocol):
    """Files by relative POSIX name. Every method raises StoreError when the place cannot be reached or written."""

    where: str  # as a person would name it
    local: bool  # a folder of this machine

    def read(self, name: str) -> Held | None:
        """A small file and its version; None when there is none."""
        ...

    def create(self, name: str, data: bytes) -> Held | None:
        """Write a file that must not exist; None, and nothing is written, when it does."""
        ...

    def replace(self, name: str, data: bytes, expected: Held) -> Held | None:
        """Write a file over exactly the version `expected`; None, and nothing is written, over any other."""
        ...

    def put(self, source: Path, name: str) -> None:
        """Copy a local file to `name`; it has the name only once it is complete."""
        ...

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes start..stop of a file, fewer at its end; FileNotFoundError when there is none."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file below `folder`, by name relative to it; empty when there is none."""
        ...

    def children(self, folder: str) -> list[str]:
        """Names of what lies in `folder`, sorted; empty when there is none."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Remove files, in this order; those that are gone already are passed over."""
        ...

    def abandoned(self, folder: str, *, remove: bool) -> int:
        """How many unfinished uploads lie below `folder`; removes them if asked to."""
        ...


def is_url(value: object) -> bool:
    """Whether `value` is a URL and not a path; a URL that names a local folder counts."""
    return isinstance(value, str) and _URL.match(value) is not None


def join(root: Path | str, *names: str) -> Path | str:
    """`root` with folders added, a path or a URL as `root` is."""
    return "/".join([str(root).rstrip("/"), *names]) if is_url(root) else Path(root, *names)


def open_place(where: Path | str, settings: RemoteSettings | None = None) -> Place:
    """The place at a folder or URL. StoreError for a URL of a kind that fsspec does not know."""
    from retrieval.store.bucket import BucketPlace
    from retrieval.store.folder import FolderPlace

    text = str(where)
    if not is_url(text):
        return FolderPlace(Path(where))
    if _FILE_URL.match(text):
        return FolderPlace(Path(_FILE_URL.sub("", text)))
    return BucketPlace(text, settings or RemoteSettings())
