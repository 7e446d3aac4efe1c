"""Where a store is: a folder or a URL, opened for the verbs that take either."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from retrieval.errors import InvalidArgument
from retrieval.store import Mirror, RemoteStore, Store
from retrieval.store.place import is_url
from retrieval.store.transfer import Progress

StoreWhere: TypeAlias = Annotated[
    str, typer.Argument(help="The store: a folder, or a URL such as s3://bucket/store (AWS_* variables tell the rest).")
]
EntityType: TypeAlias = Annotated[str, typer.Argument(help="The entity type.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")]
Cache: TypeAlias = Annotated[
    Path | None, typer.Option(help="Local folder for what has to be copied from or to a URL; kept for the next time.")
]


def open_store(where: str | Path, progress: Progress | None = None) -> Store | RemoteStore:
    """The store at a folder or URL; StoreError when there is none."""
    return RemoteStore(str(where), progress=progress) if is_url(str(where)) else Store(Path(where))


def open_mirror(where: str, cache: Path, progress: Progress | None = None) -> Mirror:
    """The store at a URL with its copy in the folder `cache`; InvalidArgument for a cache inside of nothing."""
    if is_url(str(cache)):
        raise InvalidArgument(f"--cache {cache} is a URL: it has to be a local folder")
    return Mirror(where, cache, progress=progress)
