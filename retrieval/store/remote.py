"""A store at a URL: which generations there are, which one is live, and how that changes.

    URL/<entity_type>/CURRENT, lease.json, generations/<id>/...      as in a local store; there is no staging

A generation is at the URL once its manifest is, which is sent last; it is live once CURRENT names it, and CURRENT moves
by a conditional write. Nothing here needs a local copy: whole generations are checked by reading them through. Knows
nothing about index kinds; `mirror` moves generations to and fro.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import EllipsisType

from retrieval.errors import DamagedData, NoGeneration, RetrievalError, StoreError
from retrieval.store import transfer
from retrieval.store.lease import Lease
from retrieval.store.lineage import ancestors, nothing_before, nothing_live
from retrieval.store.local import check_entity_type
from retrieval.store.manifest import MANIFEST_FILE, Manifest
from retrieval.store.place import Place, RemoteSettings, join, open_place
from retrieval.store.pointer import GENERATION_NAME, Checked, move_pointer, read_pointer

_FILE = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*")  # below the generation's folder, wherever that is


class RemoteStore:
    """The store at `url`.

    Every method raises StoreError in one sentence when the storage fails for longer than `settings` allow; what is live
    is then as it was.
    """

    def __init__(
        self, url: str, *, settings: RemoteSettings | None = None, progress: transfer.Progress | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.settings = settings or RemoteSettings()
        self.place = open_place(self.url, self.settings)
        self.progress = progress

    def home(self, entity_type: str) -> Place:
        """The place of one entity type at the URL."""
        return open_place(join(self.url, check_entity_type(entity_type)), self.settings)

    def lease(self, entity_type: str, *, owner: str, lease_s: float = 30.0, wait_s: float = 0.0) -> Lease:
        """The lease of one entity type at the URL, not yet held."""
        return Lease(self.home(entity_type), owner=owner, lease_s=lease_s, wait_s=wait_s)

    def entity_types(self) -> list[str]:
        """Entity types that have a generation at the URL."""
        names = [name for name in self.place.children("") if _acceptable(name)]
        return [name for name in names if self.generations(name)]

    def generations(self, entity_type: str) -> list[str]:
        """Ids of the complete generations at the URL, oldest first."""
        check_entity_type(entity_type)
        sizes = self.place.sizes(f"{entity_type}/generations")
        found = [name.split("/")[0] for name in sizes if name.endswith(f"/{MANIFEST_FILE}") and name.count("/") == 1]
        return sorted(name for name in found if GENERATION_NAME.fullmatch(name))

    def generation_bytes(self, entity_type: str) -> dict[str, int]:
        """Bytes under the id of every generation at the URL, half-sent ones too, which `generations` leaves out."""
        check_entity_type(entity_type)
        out: dict[str, int] = {}
        for name, size in self.place.sizes(f"{entity_type}/generations").items():
            generation = name.split("/")[0]
            if GENERATION_NAME.fullmatch(generation):
                out[generation] = out.get(generation, 0) + size
        return out

    def current(self, entity_type: str) -> str:
        """Id of the live generation at the URL; NoGeneration when nothing is live. One small read: fit for polling."""
        name, _ = read_pointer(self.home(entity_type))
        if name is None:
            # which also tells a bucket that is missing from one without the entity type
            raise nothing_live(entity_type, self.url, self.generations(entity_type), self.entity_types())
        return name

    def manifest(self, entity_type: str, generation: str) -> Manifest:
        """Manifest of a generation at the URL, itself checked; NoGeneration when there is none."""
        return self.read_manifest(entity_type, generation)[0]

    def read_manifest(self, entity_type: str, generation: str) -> tuple[Manifest, bytes]:
        """The manifest and its very bytes, which those of an older version are not when written anew."""
        file = f"{generation_folder(entity_type, generation)}/{MANIFEST_FILE}"
        held = self.place.read(file) if GENERATION_NAME.fullmatch(generation) else None
        if held is None:
            known = ", ".join(self.generations(entity_type)) or "none"
            raise NoGeneration(f"no generation {generation!r} of {entity_type!r} in {self.url}; there are: {known}")
        return _parse(held.data, f"{self.url}/{file}", generation), held.data

    def move_pointer(
        self,
        entity_type: str,
        generation: str,
        *,
        expected: str | EllipsisType | None = ...,
        lease: Checked | None = None,
    ) -> None:
        """Make a generation at the URL the live one; see `pointer.move_pointer`. NoGeneration when it is not there."""
        manifest = self.manifest(entity_type, generation)
        sizes = self.place.sizes(generation_folder(entity_type, generation))
        short = [name for name, entry in manifest.files.items() if sizes.get(name) != entry.size_bytes]
        if short:
            raise DamagedData(
                f"generation {generation} in {self.url} is not whole ({short[0]}, {len(short)} files in all): push it "
                "again"
            )
        move_pointer(self.home(entity_type), generation, expected=expected, lease=lease)

    def findings(self, entity_type: str, generation: str) -> dict[str, str]:
        """What is wrong with each file of a generation at the URL, read back whole; empty when all is well."""
        prefix = generation_folder(entity_type, generation)
        manifest = self.manifest(entity_type, generation)
        sizes = self.place.sizes(prefix)
        sizes.pop(MANIFEST_FILE, None)
        return transfer.findings(self.place, prefix, manifest.files, sizes, self.settings, self.progress)

    def rollback(
        self, entity_type: str, *, lease: Checked | None = None, passed_over: Callable[[str], None] | None = None
    ) -> str:
        """Point CURRENT at the nearest good generation that was live before, read back whole; returns its id.

        passed_over is told in a sentence of each nearer one that is not good.
        """
        live = self.current(entity_type)
        before = ancestors(live, self.generations(entity_type), lambda name: self.manifest(entity_type, name))
        if not before:
            raise nothing_before(entity_type, live, self.generations(entity_type))
        damaged: list[str] = []
        for name in before:
            try:
                wrong = self.findings(entity_type, name)
            except RetrievalError as error:
                damaged.append(str(error))
                continue
            if not wrong:
                self.move_pointer(entity_type, name, expected=live, lease=lease)
                if passed_over is not None:
                    for sentence in damaged:
                        passed_over(sentence)
                return name
            damaged.append(f"{name}: " + "; ".join(f"{file} {what}" for file, what in wrong.items()))
        raise DamagedData(f"no generation of {entity_type!r} before {live} is good: {' | '.join(damaged)}")

    def delete(self, entity_type: str, generation: str) -> int:
        """Remove a generation from the URL, the manifest first; returns the bytes freed. Never the live one."""
        prefix = generation_folder(entity_type, generation)
        live, _ = read_pointer(self.home(entity_type))
        if generation == live:
            raise StoreError(f"generation {generation} of {entity_type!r} is live in {self.url}: publish another first")
        sizes = self.place.sizes(prefix)
        names = sorted(sizes, key=lambda name: name != MANIFEST_FILE)
        self.place.delete([f"{prefix}/{name}" for name in names])
        return sum(sizes.values())


def generation_folder(entity_type: str, generation: str) -> str:
    """Where a generation lies below the URL."""
    return f"{check_entity_type(entity_type)}/generations/{generation}"


def _acceptable(name: str) -> bool:
    try:
        return bool(check_entity_type(name))
    except RetrievalError:
        return False


def _parse(data: bytes, where: str, generation: str) -> Manifest:
    manifest = Manifest.from_bytes(data, where=where)
    if manifest.id != generation:
        raise DamagedData(f"{where} is the manifest of generation {manifest.id}, not of {generation}")
    for name in manifest.files:
        if not _FILE.fullmatch(name):
            raise DamagedData(f"{where} names the file {name[:80]!r}, which cannot be one of a generation")
    return manifest
