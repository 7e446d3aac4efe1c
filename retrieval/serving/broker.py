"""The broker's view of the fleet: which leaf serves which shards of which generation, looked at again and again.

Per entity type it serves one generation: among those whose every shard some leaf has, the newest; while none is whole,
the one of which the most rows are there. So an answer never mixes generations, and with them spaces, also while leaves
are moved to a new one; the query vector is made for the space of the generation chosen. What an unreachable leaf had
last told stays known, so that its rows count as missing. Knows nothing about texts or merging.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
import pyarrow as pa

from retrieval.errors import DamagedData, InvalidParams, RetrievalError, Unavailable
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving import deadline
from retrieval.serving import shard_wire as wire
from retrieval.serving.calls import GenerationDescription, LeafState
from retrieval.serving.config import ServingSettings
from retrieval.serving.effort import Efforts
from retrieval.serving.fleet import Hedging, Leaf
from retrieval.serving.rankings import Served
from retrieval.serving.remote import RemoteShards
from retrieval.store import Manifest

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Known:
    """One generation as the leaves told of it."""

    manifest: Manifest
    columns: tuple[str, ...]
    schemas: dict[str, pa.Schema] = field(default_factory=dict)


def read_targets(text: str) -> list[str]:
    """The leaves `host:port`, separated by , or ; and `dns:name:port` for every address of a name.

    InvalidParams for a target without a port or a name that cannot be resolved.
    """
    targets: list[str] = []
    for each in (part.strip() for part in text.replace(";", ",").split(",")):
        if not each:
            continue
        host, _, port = each.removeprefix("dns:").rpartition(":")
        if not host or not port.isdigit():
            raise InvalidParams(f"leaf {each!r} has no host and port: write host:port, or dns:name:port")
        if each.startswith("dns:"):
            try:
                found = sorted(
                    {str(info[4][0]) for info in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)}
                )
            except OSError as error:
                raise InvalidParams(
                    f"the name {host!r} cannot be resolved ({error}): check leaves = {text!r}"
                ) from None
            targets += [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in found]
        else:
            targets.append(each)
    if not targets:
        raise InvalidParams("a broker has no leaves: name them with --shards host:port,host:port")
    return list(dict.fromkeys(targets))


class Broker:
    """The leaves of `settings.shards` and what they serve together."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        targets = read_targets(settings.shards or "")
        self.leaves = [Leaf(target, eject_after=settings.eject_after_failures) for target in targets]
        self.hedging = Hedging(settings.hedge_budget)
        self._known: dict[tuple[str, str], _Known] = {}
        self._shape: object = None
        self._wake, self._ended = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(min(64, len(self.leaves)), thread_name_prefix="probe")
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
        for leaf in self.leaves:
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
                self._look()
                served = self._served()
                if served and self._shape != before:
                    changed(served)
            except Exception:  # the fleet is looked at again, whatever this was
                _log.exception("looking at the fleet failed")

    def _look(self) -> None:
        list(self._pool.map(self._probe, self.leaves))

    def _probe(self, leaf: Leaf) -> None:
        patience = min(1.0, self._settings.probe_interval_seconds * 2)
        try:
            told = leaf.stub.DescribeShards(pb.DescribeShardsRequest(), timeout=patience)
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
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            leaf.failed(f"{code.name} when asked what it serves")
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
            (hits,) = leaf.stub.SearchShards(request, timeout=patience).hits
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
        best: dict[str, tuple[int, str]] = {}
        for (entity_type, generation), holders in held.items():
            manifest = self._known[entity_type, generation].manifest
            rows = sum(shard.rows for shard in manifest.shards if shard.name in holders)
            # a whole one goes before a part, the newest whole one first
            rank = (10_000_000 if rows == manifest.rows else int(1e6 * rows / manifest.rows), generation)
            best[entity_type] = max(best.get(entity_type, (0, "")), rank)
        self._shape = {
            name: (
                generation,
                {shard: [each.target for each in leaves] for shard, leaves in held[name, generation].items()},
            )
            for name, (_, generation) in best.items()
        }
        return {name: self._open(name, generation, held[name, generation]) for name, (_, generation) in best.items()}

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
