"""The broker's view of the fleet: which leaf serves which shards of which generation, looked at again and again.

Per entity type it serves one generation: among those whose every shard some leaf has, the newest; while none is whole,
the one of which the most rows are there. So an answer never mixes generations, and with them spaces, also while leaves
are moved to a new one; the query vector is made for the space of the generation chosen. What an unreachable leaf had
last told stays known, so that its rows count as missing; a leaf whose address its DNS name no longer has is forgotten.
Knows nothing about texts or merging.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
import pyarrow as pa

from retrieval.errors import DamagedData, RetrievalError, Unavailable
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving import deadline
from retrieval.serving.calls import GenerationDescription, LeafState
from retrieval.serving.config import ServingSettings
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.fleet import wire
from retrieval.serving.fleet.access import LeafAccess
from retrieval.serving.fleet.leaves import Hedging, Leaf
from retrieval.serving.fleet.remote import RemoteShards
from retrieval.serving.fleet.targets import Resolve, Target, Targets, resolve
from retrieval.serving.rankings import Served
from retrieval.store import Manifest

_log = logging.getLogger(__name__)
_MAX_REASON = 200  # characters of what gRPC says of a failed connection, which can be a page


@dataclass(kw_only=True)
class _Known:
    """One generation as the leaves told of it."""

    manifest: Manifest
    columns: tuple[str, ...]
    schemas: dict[str, pa.Schema] = field(default_factory=dict)


class Broker:
    """The leaves of `settings.shards` and what they serve together.

    resolve: addresses of a DNS name. InvalidParams for leaves that are not named well, a name that has no address, and
    files for reaching them that cannot be used.
    """

    def __init__(self, settings: ServingSettings, *, resolve: Resolve = resolve) -> None:
        self._settings = settings
        self._targets = Targets(settings.shards or "", resolve)
        self._access = LeafAccess(settings)
        self.leaves = [self._leaf(target) for target in self._targets.known()]
        self._resolving: Future[list[Target]] | None = None
        self._resolve_at = time.monotonic() + settings.resolve_interval_seconds
        self._left: list[tuple[float, Leaf]] = []  # forgotten leaves that calls in flight may still ask, until when
        self.hedging = Hedging(settings.hedge_budget)
        self._known: dict[tuple[str, str], _Known] = {}
        self._shape: object = None
        self.spaces: frozenset[str] = frozenset()  # that the checkpoint's vectors may search; empty without one
        self._wake, self._ended = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(64, thread_name_prefix="probe")  # as many threads as there are leaves to ask
        self._names = ThreadPoolExecutor(1, thread_name_prefix="names")
        self._thread: threading.Thread | None = None

    def load(self) -> dict[str, Served]:
        """Ask every leaf what it serves; Unavailable when none answers."""
        self._look()
        served = self._served()
        if not served:
            named = "; ".join(f"{leaf.target}: {leaf.last_error}" for leaf in self.leaves)
            raise Unavailable(f"no leaf answers ({named}): start leaves with --role shard, or check --shards")
        return served

    def watch(self, changed: Callable[[dict[str, Served]], None]) -> None:
        """Look at the fleet in the background; `changed` gets what to serve from now on."""
        self._thread = threading.Thread(target=self._watch, args=(changed,), name="fleet", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the background thread and the channels."""
        self._ended.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._pool.shutdown()
        self._names.shutdown(wait=False)  # a name server may take its time
        for leaf in (*self.leaves, *(leaf for _, leaf in self._left)):
            leaf.close()

    def states(self) -> tuple[LeafState, ...]:
        """The leaves, as `Describe` tells of them."""
        return tuple(leaf.state() for leaf in self.leaves)

    def _watch(self, changed: Callable[[dict[str, Served]], None]) -> None:
        while not self._ended.is_set():
            self._wake.wait(self._settings.probe_interval_seconds)
            self._wake.clear()
            if self._ended.is_set():
                return
            try:
                before = self._shape
                self._look_for_leaves()
                if self._access.look():
                    for leaf in self.leaves:
                        leaf.connect()
                self._look()
                served = self._served()
                if served and self._shape != before:
                    changed(served)
            except Exception:  # the fleet is looked at again, whatever this was
                _log.exception("looking at the fleet failed")

    def _leaf(self, target: Target) -> Leaf:
        return Leaf(target, self._access, eject_after=self._settings.eject_after_failures)

    def _look_for_leaves(self) -> None:
        """Take the addresses that the names have now; the name servers are asked beside the fleet, which goes on."""
        now = time.monotonic()
        for until, leaf in self._left:
            if until < now:
                leaf.close()
        self._left = [(until, leaf) for until, leaf in self._left if until >= now]
        if self._resolving is not None and self._resolving.done():
            targets, self._resolving = self._resolving.result(), None
            self._resolve_at = now + self._settings.resolve_interval_seconds
            self._take(targets)
        elif self._resolving is None and self._targets.has_names and now >= self._resolve_at:
            self._resolving = self._names.submit(self._targets.look)

    def _take(self, targets: list[Target]) -> None:
        here = {leaf.target: leaf for leaf in self.leaves}
        there = {target.address for target in targets}
        if set(here) == there:
            return
        gone = [leaf for address, leaf in here.items() if address not in there]
        _log.info("leaves by name: %d came, %d left", len(there - set(here)), len(gone))
        self.leaves = [here.get(target.address) or self._leaf(target) for target in targets]
        until = time.monotonic() + 2 * self._settings.leaf_timeout_seconds
        self._left += [(until, leaf) for leaf in gone]

    def _look(self) -> None:
        list(self._pool.map(self._probe, self.leaves))

    def _probe(self, leaf: Leaf) -> None:
        patience = min(1.0, self._settings.probe_interval_seconds * 2)
        try:
            told = leaf.begin("DescribeShards", pb.DescribeShardsRequest(), patience).result()
            parts: dict[tuple[str, str], frozenset[str]] = {}
            for part in told.parts:
                key = (part.part.entity_type, part.part.generation)
                if key not in self._known:
                    self._known[key] = _Known(
                        manifest=Manifest.from_bytes(part.manifest_json.encode(), where=f"leaf {leaf.target}"),
                        columns=tuple(part.columns),
                    )
                known = self._known[key]
                schema = pa.ipc.read_schema(pa.py_buffer(part.schema))
                known.columns = tuple(dict.fromkeys((*known.columns, *part.columns)))
                known.schemas.update(dict.fromkeys(part.part.shards, schema))
                parts[key] = frozenset(part.part.shards)
            leaf.parts = parts
            if leaf.ejected:
                self._try_out(leaf, patience)
                leaf.succeeded()
        except grpc.FutureCancelledError:
            return  # its channel is being replaced
        except grpc.RpcError as error:
            leaf.failed(f"{_sentence(error)} when asked what it serves")
        except (RetrievalError, pa.ArrowException, ValueError) as error:
            leaf.failed(f"tells rubbish of what it serves ({error})")

    def _try_out(self, leaf: Leaf, patience: float) -> None:
        """A leaf that can tell what it serves may still answer searches with rubbish; DamagedData then."""
        for (entity_type, generation), names in leaf.parts.items():
            manifest = self._known[entity_type, generation].manifest
            vector = np.full(manifest.d, manifest.d**-0.5, np.float32)
            name = min(names)
            request = pb.SearchShardsRequest(
                part=pb.Part(entity_type=entity_type, generation=generation, shards=[name]),
                vectors=wire.to_bytes(vector, "<f4"),
                queries=1,
                space_id=manifest.space_id,
                k=1,
            )
            (hits,) = leaf.begin("SearchShards", request, patience).result().hits
            if hits.failure:
                raise DamagedData(f"{name} failed with {hits.failure}")
            rows = next(each.rows for each in manifest.shards if each.name == name)
            wire.read_hits(hits, queries=1, rows=rows, id_type=manifest.id_type, crowded=False)

    def _served(self) -> dict[str, Served]:
        held: dict[tuple[str, str], dict[str, list[Leaf]]] = {}
        for leaf in self.leaves:
            for key, names in leaf.parts.items():
                for name in names:
                    held.setdefault(key, {}).setdefault(name, []).append(leaf)
        best: dict[str, tuple[bool, int, str]] = {}
        for (entity_type, generation), holders in held.items():
            manifest = self._known[entity_type, generation].manifest
            rows = sum(shard.rows for shard in manifest.shards if shard.name in holders)
            fits = not self.spaces or manifest.space_id in self.spaces
            # one that texts can search goes before all, a whole one before a part, the newest whole one first
            rank = (fits, 10_000_000 if rows == manifest.rows else int(1e6 * rows / manifest.rows), generation)
            best[entity_type] = max(best.get(entity_type, (False, 0, "")), rank)
        self._shape = {
            name: (
                generation,
                {shard: [each.target for each in leaves] for shard, leaves in held[name, generation].items()},
            )
            for name, (_, _, generation) in best.items()
        }
        return {name: self._open(name, generation, held[name, generation]) for name, (_, _, generation) in best.items()}

    def _open(self, entity_type: str, generation: str, holders: dict[str, list[Leaf]]) -> Served:
        known = self._known[entity_type, generation]
        shards = RemoteShards.over(
            known.manifest,
            known.schemas,
            holders,
            hedging=self.hedging,
            timeout_s=self._timeout_s,
            completeness=self._settings.completeness,
            on_stale=self._wake.set,
        )
        about = GenerationDescription(manifest=known.manifest, columns=known.columns)
        return Served(about=about, shards=shards, efforts=Efforts(known.manifest))

    def _timeout_s(self) -> float:
        remaining = deadline.remaining_s()
        most = self._settings.leaf_timeout_seconds
        return most if remaining is None else min(most, remaining * self._settings.leaf_deadline_share)


def _sentence(error: grpc.RpcError) -> str:
    if not isinstance(error, grpc.Call):
        return "UNKNOWN"
    return f"{error.code().name} ({(error.details() or 'no reason given')[:_MAX_REASON]})"
