"""A store on local disk: which generations there are, which one is live, and how that changes.

    STORE/<entity_type>/CURRENT              name of the live generation
    STORE/<entity_type>/generations/<id>/    immutable once it has this name
    STORE/<entity_type>/staging/<plan>/      a build at work; never read by servers

A generation appears by renaming a complete, fsynced folder; it goes live by replacing CURRENT. Both are atomic, so a
crash at any instant leaves the old generation serving. Knows nothing about index kinds.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from retrieval.errors import DamagedData, InvalidArgument, NoGeneration, StoreError
from retrieval.store.generation import Generation, read_manifest
from retrieval.store.manifest import Manifest

_ENTITY_TYPE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_GENERATION = re.compile(r"[0-9]{6}-[0-9a-f]{8}")


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
        try:
            return bool(self.entity_types()) or all(
                _ENTITY_TYPE.fullmatch(child.name) and child.is_dir() and not any(child.iterdir())
                for child in self.root.iterdir()
            )
        except OSError as error:
            raise StoreError(f"cannot read store {self.root}: {error.strerror}") from error

    def prepare(self, entity_type: str) -> Path:
        """Make the folders of an entity type and return its home; the first thing that a build does."""
        try:
            self._generations(entity_type).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {self._generations(entity_type)}: {error.strerror}") from error
        return self._home(entity_type)

    def entity_types(self) -> list[str]:
        """Entity types that have a folder of generations."""
        return sorted(
            child.name
            for child in self.root.iterdir()
            if _ENTITY_TYPE.fullmatch(child.name) and (child / "generations").is_dir()
        )

    def generations(self, entity_type: str) -> list[str]:
        """Published generation ids, oldest first."""
        folder = self._generations(entity_type)
        if not folder.is_dir():
            return []
        return sorted(child.name for child in folder.iterdir() if _GENERATION.fullmatch(child.name))

    def current(self, entity_type: str) -> str:
        """Id of the live generation; NoGeneration when nothing is published."""
        pointer = self._home(entity_type) / "CURRENT"
        try:
            name = pointer.read_text().strip()
        except FileNotFoundError:
            raise NoGeneration(f"nothing is published for entity type {entity_type!r} in {self.root}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"cannot read {pointer}: {error}") from error
        if not _GENERATION.fullmatch(name):
            raise StoreError(f"{pointer} does not name a generation: {name!r}; publish one to mend it")
        return name

    def generation_path(self, entity_type: str, generation: str) -> Path:
        """Folder of a published generation; NoGeneration when there is none of that name."""
        path = self._generations(entity_type) / generation
        if not _GENERATION.fullmatch(generation) or not path.is_dir():
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

    def next_id(self, entity_type: str, plan_digest: str) -> str:
        """Id for a new generation: a running number, which orders generations without a clock, and the plan's hash."""
        published = self.generations(entity_type)
        number = int(published[-1][:6]) + 1 if published else 1
        return f"{number:06d}-{plan_digest[:8]}"

    def staging(self, entity_type: str, plan_digest: str) -> Path:
        """Folder where the build of one plan works and where a later run finds it again."""
        return self._home(entity_type) / "staging" / plan_digest[:16]

    def admit(self, staged: Path, entity_type: str, generation: str) -> Path:
        """Make a complete staged folder a generation: fsync everything, then one rename. Not yet live."""
        target = self._generations(entity_type) / generation
        if target.exists():
            raise StoreError(f"generation {generation} of {entity_type} exists already in {self.root}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for path in sorted(staged.rglob("*"), reverse=True):
                _fsync(path)
            _fsync(staged)
            os.rename(staged, target)
            _fsync(target.parent)
            _fsync(target.parent.parent)
        except OSError as error:
            raise StoreError(f"cannot publish into {target}: {error.strerror}") from error
        return target

    def publish(self, entity_type: str, generation: str) -> None:
        """Point CURRENT at a generation, atomically and durably."""
        self.generation_path(entity_type, generation)
        pointer = self._home(entity_type) / "CURRENT"
        temporary = pointer.with_name(f"CURRENT.{os.getpid()}.tmp")
        try:
            with temporary.open("w") as file:
                file.write(generation + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, pointer)
            _fsync(pointer.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise StoreError(f"cannot move {pointer} to {generation}: {error.strerror}") from error

    def rollback(self, entity_type: str) -> str:
        """Point CURRENT at the newest good generation older than the live one; returns its id.

        Every byte of it is checked first. NoGeneration when there is none older, DamagedData when none is good.
        """
        live = self.current(entity_type)
        older = [generation for generation in self.generations(entity_type) if generation < live]
        if not older:
            raise NoGeneration(f"there is no generation of {entity_type!r} older than {live} to roll back to")
        damaged: list[str] = []
        for generation in reversed(older):
            try:
                self.open(entity_type, generation)
            except (DamagedData, StoreError) as error:
                damaged.append(str(error))
                continue
            self.publish(entity_type, generation)
            return generation
        raise DamagedData(f"no generation of {entity_type!r} older than {live} is good: {' | '.join(damaged)}")

    def remove_old(self, entity_type: str, *, keep: int) -> list[str]:
        """Delete all but the live and the newest `keep` (1 or more) generations; returns the deleted ids."""
        if keep < 1:
            raise InvalidArgument(f"keep = {keep} is not acceptable: at least 1 generation stays")
        live = self.current(entity_type)
        kept = {live, *self.generations(entity_type)[-keep:]}
        removed = [generation for generation in self.generations(entity_type) if generation not in kept]
        for generation in removed:
            path = self._generations(entity_type) / generation
            doomed = path.with_name(f".removed-{generation}")
            try:
                os.rename(path, doomed)  # gone under its name at once, so that nobody opens a half-deleted folder
                shutil.rmtree(doomed)
            except OSError as error:
                raise StoreError(f"cannot remove generation {path}: {error.strerror}") from error
        return removed

    def clean(self, entity_type: str) -> None:
        """Remove what a killed publish or removal left behind. Only for the holder of the build lock."""
        for path in self._home(entity_type).glob("CURRENT.*.tmp"):
            path.unlink(missing_ok=True)
        for path in self._generations(entity_type).glob(".removed-*"):
            shutil.rmtree(path)

    def _home(self, entity_type: str) -> Path:
        return self.root / check_entity_type(entity_type)

    def _generations(self, entity_type: str) -> Path:
        return self._home(entity_type) / "generations"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
