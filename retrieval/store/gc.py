"""Garbage of a store: generations that nobody keeps, and what jobs that died left behind.

Removed are all generations but the live one, its parent if wanted, and the newest few; stagings and half-fetched
generations that have not changed for a while (until then a next run could still resume them); temporary files; and at
URLs half-sent generations and unfinished uploads. All of it under the lease and the build lock, so that nothing of a
living job is taken for rubbish. Ages are those of files, by the clock that stamps them; the locks do not depend on it.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from retrieval.errors import FailedPrecondition, InvalidArgument, NoGeneration, RetrievalError, StoreError
from retrieval.store.folder import UNFINISHED, reason
from retrieval.store.lease import Lease
from retrieval.store.local import BUILD_LOCK, FETCHING, STAGING, Store
from retrieval.store.pointer import Checked
from retrieval.store.remote import RemoteStore

STALE_S = 24 * 3600.0
_NAMELESS = "of single files"
Kind: TypeAlias = Literal["generation", "staging", "fetching", "temporary", "upload"]


@dataclass(frozen=True, kw_only=True)
class Rubbish:
    """What to remove: a generation's id, or a path below the home of its entity type.

    count: of unfinished uploads at a URL, which have no names and no known size; 1 for all else.
    """

    kind: Kind
    name: str
    size_bytes: int
    count: int = 1


def collect_garbage(
    store: Store | RemoteStore,
    entity_type: str,
    *,
    keep: int = 3,
    keep_parent: bool = True,
    stale_s: float = STALE_S,
    dry_run: bool = False,
    lease: Checked | None = None,
) -> list[Rubbish]:
    """Remove the garbage of an entity type and return it; with `dry_run`, only return it.

    keep: newest generations that stay beside the live one. keep_parent: whether the generation that the live one was
    made from stays too. stale_s: for how long a staging must not have changed. lease: one that the caller holds
    already; None takes one for the while. Raises InvalidArgument for keep < 1 or stale_s < 0, NoGeneration for an
    unknown entity type, FailedPrecondition when another job is at work, StoreError when something cannot be removed;
    nothing that is kept is ever touched.
    """
    if keep < 1:
        raise InvalidArgument(f"keep = {keep} is not acceptable: at least 1 generation stays")
    if stale_s < 0:
        raise InvalidArgument(f"stale_s = {stale_s} is not acceptable: 0 seconds or more")
    known = store.entity_types()
    if entity_type not in known and not _anything(store, entity_type):
        where = store.root if isinstance(store, Store) else store.url
        raise NoGeneration(f"{where} has no entity type {entity_type!r}; there are: {', '.join(known) or 'none'}")
    if dry_run:
        return _find(store, entity_type, keep, keep_parent, stale_s)
    home = store.prepare(entity_type) if isinstance(store, Store) else store.home(entity_type)
    with nullcontext(lease) if lease is not None else Lease(home, owner="gc") as held:
        held.check()
        # nothing of a URL is built in place
        with _no_build(home, entity_type) if isinstance(home, Path) else nullcontext():
            found = _find(store, entity_type, keep, keep_parent, stale_s)
            for each in found:
                _remove(store, entity_type, each)
    return found


def doomed_generations(store: Store | RemoteStore, entity_type: str, *, keep: int, keep_parent: bool) -> list[str]:
    """Generations that neither are live or the live one's parent nor belong to the newest `keep`, oldest first."""
    try:
        live = store.current(entity_type)
    except NoGeneration:
        return []  # while nothing is live every generation might still be wanted
    known = store.generations(entity_type)
    kept = {live, *known[-keep:]}
    if keep_parent and live in known:
        try:
            kept.add(store.manifest(entity_type, live).parent or live)
        except RetrievalError:
            return []  # the live one is damaged: any other may be the way out
    return [generation for generation in known if generation not in kept]


def _anything(store: Store | RemoteStore, entity_type: str) -> bool:
    """Whether a URL has what a first upload of an entity type left unfinished."""
    if isinstance(store, Store):
        return False
    return bool(store.generation_bytes(entity_type) or store.home(entity_type).abandoned("generations", remove=False))


def _find(store: Store | RemoteStore, entity_type: str, keep: int, keep_parent: bool, stale_s: float) -> list[Rubbish]:
    doomed = doomed_generations(store, entity_type, keep=keep, keep_parent=keep_parent)
    if isinstance(store, RemoteStore):
        sizes = store.generation_bytes(entity_type)
        found = [Rubbish(kind="generation", name=name, size_bytes=sizes[name]) for name in doomed]
        whole = set(store.generations(entity_type))
        found += [
            Rubbish(kind="upload", name=name, size_bytes=size) for name, size in sizes.items() if name not in whole
        ]
        unfinished = store.home(entity_type).abandoned("generations", remove=False)
        if unfinished:
            found.append(Rubbish(kind="upload", name=_NAMELESS, size_bytes=0, count=unfinished))
        return found
    home = store.home(entity_type)
    generations = home / "generations"
    found = [Rubbish(kind="generation", name=name, size_bytes=_size(generations / name)) for name in doomed]
    for kind in (STAGING, FETCHING):
        for path in _listed(home / kind):
            if _age_s(path) >= stale_s and not (kind == FETCHING and _busy(path)):
                found.append(_rubbish(kind, path, home))
    temporary = [path for path in _listed(home) if path.name.endswith(UNFINISHED) and path.is_file()]
    temporary += [path for path in _listed(generations) if path.name.startswith(".removed-")]
    return found + [_rubbish("temporary", path, home) for path in temporary]


def _rubbish(kind: str, path: Path, home: Path) -> Rubbish:
    return Rubbish(kind=kind, name=path.relative_to(home).as_posix(), size_bytes=_size(path))  # type: ignore[arg-type]


def _remove(store: Store | RemoteStore, entity_type: str, each: Rubbish) -> None:
    if isinstance(store, RemoteStore):
        if each.name == _NAMELESS:
            store.home(entity_type).abandoned("generations", remove=True)
        else:
            store.delete(entity_type, each.name)
    elif each.kind == "generation":
        store.remove(entity_type, each.name)
    else:
        path = store.home(entity_type) / each.name
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if path.parent.name in {STAGING, FETCHING} and not any(path.parent.iterdir()):
                path.parent.rmdir()
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {reason(error)}") from error


@contextmanager
def _no_build(home: Path, entity_type: str) -> Iterator[None]:
    with (home / BUILD_LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"a build of {entity_type!r} is at work in {home.parent}: collect garbage when it has ended"
            ) from None
        yield


def _busy(path: Path) -> bool:
    """Whether a process is fetching into `path`, or `path` is the lock file that such a process holds."""
    lock = path if path.name.endswith(".lock") else path.with_name(path.name + ".lock")
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _age_s(path: Path) -> float:
    """Seconds since anything below `path` changed."""
    return time.time() - max(each.lstat().st_mtime for each in (path, *path.rglob("*")))


def _size(path: Path) -> int:
    return sum(each.lstat().st_size for each in (path, *path.rglob("*")) if each.is_file())
