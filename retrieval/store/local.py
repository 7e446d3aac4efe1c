"""A store on local disk: which generations there are, which one is live, and how that changes.

    STORE/<entity_type>/CURRENT              name of the live generation
    STORE/<entity_type>/generations/<id>/    immutable once it has this name
    STORE/<entity_type>/staging/<plan>/      a build at work; never read by servers
    STORE/<entity_type>/fetching/<id>/       a generation on its way from a URL; see `mirror`
    STORE/<entity_type>/lease.json           who may publish; see `lease`

A generation appears by renaming a complete, fsynced folder; it goes live by replacing CURRENT. Both are atomic, so a
crash at any instant leaves the old generation serving. Knows nothing about index kinds.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import EllipsisType

from retrieval.errors import DamagedData, FailedPrecondition, InvalidArgument, NoGeneration, StoreError
from retrieval.store.folder import UNFINISHED, FolderPlace, fsync, reading
from retrieval.store.generation import Generation, read_manifest
from retrieval.store.lineage import ancestors, nothing_before, nothing_live
from retrieval.store.manifest import Manifest
from retrieval.store.pointer import GENERATION_NAME, Checked, move_pointer, read_pointer

STAGING, FETCHING = "staging", "fetching"
BUILD_LOCK = "build.lock"  # held by flock while a build of the entity type is at work
_ENTITY_TYPE = re.compile(r"[a-z][a-z0-9_]{0,62}")


def check_entity_type(value: str) -> str:
    """Return `value` if it can name an entity type, else InvalidArgument."""
    if not _ENTITY_TYPE.fullmatch(value):
        raise InvalidArgument(
            f"entity type {value!r} is not acceptable: it takes 1 to 63 of a-z, 0-9 and _, a letter first"
        )
    return value


class Store:
    """The store at a local folder. Opening it for reading checks that it is one."""

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self.root = Path(root)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(root)):
            raise StoreError(f"{root} looks like a URL: a store is a local folder; copy it to one and name that")
        if create:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"cannot create store {self.root}: {error.strerror}") from error
        elif not self.root.is_dir():
            why = "it is a file" if self.root.exists() else "no such folder"
            raise StoreError(f"{self.root} is not a store: {why}; build a generation into a folder first")
        if not self._looks_like_a_store():
            raise StoreError(
                f"{self.root} is not a store: it holds files but no <entity type>/generations folder; name a new folder"
            )

    def _looks_like_a_store(self) -> bool:
        """Empty folders of entity types count: a build killed in its first moment leaves one."""
        with reading(self.root):
            return bool(self.entity_types()) or all(
                _ENTITY_TYPE.fullmatch(child.name) and child.is_dir() and not any(child.iterdir())
                for child in self.root.iterdir()
            )

    def prepare(self, entity_type: str) -> Path:
        """Make the folders of an entity type and return its home; the first thing that a build does."""
        try:
            self._generations(entity_type).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {self._generations(entity_type)}: {error.strerror}") from error
        return self.home(entity_type)

    def entity_types(self) -> list[str]:
        """Entity types that have a folder of generations."""
        with reading(self.root):
            return sorted(
                child.name
                for child in self.root.iterdir()
                if _ENTITY_TYPE.fullmatch(child.name) and (child / "generations").is_dir()
            )

    def generations(self, entity_type: str) -> list[str]:
        """Published generation ids, oldest first."""
        folder = self._generations(entity_type)
        with reading(folder):
            if not folder.is_dir():
                return []
            return sorted(child.name for child in folder.iterdir() if GENERATION_NAME.fullmatch(child.name))

    def current(self, entity_type: str) -> str:
        """Id of the live generation; NoGeneration when nothing is published."""
        name, _ = read_pointer(FolderPlace(self.home(entity_type)))
        if name is None:
            raise nothing_live(entity_type, str(self.root), self.generations(entity_type), self.entity_types())
        return name

    def generation_path(self, entity_type: str, generation: str) -> Path:
        """Folder of a published generation; NoGeneration when there is none of that name."""
        path = self._generations(entity_type) / generation
        with reading(path):
            there = GENERATION_NAME.fullmatch(generation) is not None and path.is_dir()
        if not there:
            known = ", ".join(self.generations(entity_type)) or "none"
            raise NoGeneration(f"no generation {generation!r} of {entity_type!r} in {self.root}; there are: {known}")
        return path

    def manifest(self, entity_type: str, generation: str) -> Manifest:
        """Manifest of a published generation, itself checked; the files it names are not."""
        return read_manifest(self.generation_path(entity_type, generation))

    def open(
        self, entity_type: str, generation: str, *, threads: int = 4, only: frozenset[str] | None = None
    ) -> Generation:
        """The generation with every byte verified; NoGeneration, StoreError or DamagedData otherwise.

        only: see `Generation.open`.
        """
        return Generation.open(self.generation_path(entity_type, generation), threads=threads, only=only)

    def next_id(self, entity_type: str, plan_digest: str, *, taken: Sequence[str] = ()) -> str:
        """Id for a new generation: a running number, which orders generations without a clock, and the plan's hash.

        taken: ids of another store that it will be copied to.
        """
        published = max([*self.generations(entity_type), *taken], default=None)
        number = 1 if published is None else int(published[:6]) + 1
        return f"{number:06d}-{plan_digest[:8]}"

    def staging(self, entity_type: str, plan_digest: str) -> Path:
        """Folder where the build of one plan works and where a later run finds it again."""
        return self.home(entity_type) / STAGING / plan_digest[:16]

    def admit(self, staged: Path, entity_type: str, generation: str) -> Path:
        """Make a complete staged folder a generation: fsync everything, then one rename. Not yet live."""
        target = self._generations(entity_type) / generation
        if target.exists():
            raise StoreError(f"generation {generation} of {entity_type} exists already in {self.root}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for path in sorted(staged.rglob("*"), reverse=True):
                fsync(path)
            fsync(staged)
            os.rename(staged, target)
            fsync(target.parent)
            fsync(target.parent.parent)
        except OSError as error:
            raise StoreError(f"cannot publish into {target}: {error.strerror}") from error
        return target

    def publish(
        self,
        entity_type: str,
        generation: str,
        *,
        expected: str | EllipsisType | None = ...,
        lease: Checked | None = None,
    ) -> None:
        """Point CURRENT at a generation, atomically and durably; after any error it is as it was.

        expected: what has to be live for the move to happen (None: nothing), else FailedPrecondition; left out,
        whatever is live is replaced. lease: a `Lease` that is checked right before the move. NoGeneration, too, when
        the generation is removed meanwhile.
        """
        self.generation_path(entity_type, generation)
        place = FolderPlace(self.home(entity_type))
        before = self._live(entity_type)
        move_pointer(place, generation, expected=expected, lease=lease)
        try:
            self.generation_path(entity_type, generation)
        except NoGeneration:
            if before is not None:
                move_pointer(place, before, expected=generation)
            raise

    def rollback(self, entity_type: str, *, passed_over: Callable[[str], None] | None = None) -> str:
        """Point CURRENT at the nearest good generation that was live before the live one; returns its id.

        Every byte of it is checked first; passed_over is told in a sentence of each nearer one that is not good.
        NoGeneration when there is none, DamagedData when none is good.
        """
        live = self.current(entity_type)
        before = ancestors(live, self.generations(entity_type), lambda name: self.manifest(entity_type, name))
        if not before:
            raise nothing_before(entity_type, live, self.generations(entity_type))
        damaged: list[str] = []
        for generation in before:
            try:
                self.open(entity_type, generation)
            except (DamagedData, StoreError) as error:
                damaged.append(str(error))
                continue
            self.publish(entity_type, generation, expected=live)
            if passed_over is not None:
                for sentence in damaged:
                    passed_over(sentence)
            return generation
        raise DamagedData(f"no generation of {entity_type!r} before {live} is good: {' | '.join(damaged)}")

    def remove_old(self, entity_type: str, *, keep: int) -> list[str]:
        """Delete all but the live and the newest `keep` (1 or more) generations; returns the deleted ids."""
        if keep < 1:
            raise InvalidArgument(f"keep = {keep} is not acceptable: at least 1 generation stays")
        live = self.current(entity_type)
        kept = {live, *self.generations(entity_type)[-keep:]}
        removed = [generation for generation in self.generations(entity_type) if generation not in kept]
        for generation in removed:
            self.remove(entity_type, generation)
        return removed

    def remove(self, entity_type: str, generation: str, *, even_live: bool = False) -> None:
        """Delete a generation; it is gone under its name at once, so that nobody opens a half-deleted folder.

        FailedPrecondition when it is live, unless `even_live`: whoever publishes needs no lease, and may choose what a
        collector has just found idle.
        """
        path = self.generation_path(entity_type, generation)
        doomed = path.with_name(f".removed-{generation}")
        try:
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
            if not even_live and self._live(entity_type) == generation:  # asked now that nobody can publish it any more
                os.rename(doomed, path)
                raise FailedPrecondition(f"generation {generation} of {entity_type!r} is live: it stays")
            shutil.rmtree(doomed)
        except OSError as error:
            raise StoreError(f"cannot remove generation {path}: {error.strerror}") from error

    def _live(self, entity_type: str) -> str | None:
        try:
            return read_pointer(FolderPlace(self.home(entity_type)))[0]
        except StoreError:  # it names nothing, which `publish` mends
            return None

    def clean(self, entity_type: str) -> None:
        """Remove what a killed publish or removal left behind. Only for the holder of the build lock."""
        for path in self.home(entity_type).glob(f"*{UNFINISHED}"):
            if path.is_file():
                path.unlink(missing_ok=True)
        for path in self._generations(entity_type).glob(".removed-*"):
            shutil.rmtree(path)

    def home(self, entity_type: str) -> Path:
        """Folder of an entity type, which may not exist yet."""
        return self.root / check_entity_type(entity_type)

    def _generations(self, entity_type: str) -> Path:
        return self.home(entity_type) / "generations"
