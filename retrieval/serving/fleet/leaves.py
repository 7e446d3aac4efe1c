"""Leaves as their broker sees them: which answer, which are ejected, how long they take, and what hedging may cost.

A leaf is ejected after a number of consecutive failures and comes back when a probe succeeds. Hedging follows Dean and
Barroso, "The Tail at Scale" (CACM 2013): a second replica is asked once a call is slower than the running 95th
percentile, out of a budget that is a share of all calls. Knows nothing about shards' contents or merging.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from retrieval.pb.retrieval.v1 import retrieval_pb2_grpc
from retrieval.serving.calls import LeafState
from retrieval.serving.fleet.access import LeafAccess
from retrieval.serving.fleet.targets import Target

_log = logging.getLogger(__name__)
_WINDOW = 512  # latencies kept per set of replicas
_ENOUGH = 20  # of them before the percentile is believed
_RECOUNT = 32  # latencies between two looks at the percentile
_BANK = 10.0  # hedges that a quiet time can save up
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # a leaf that is back shall be seen within a probe or two
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


class Leaf:
    """One server of shards: its channel, and whether it can be trusted at the moment. Any thread may use it."""

    def __init__(self, target: Target, access: LeafAccess, *, eject_after: int) -> None:
        self.target = target.address
        self.ejected = False
        self.last_error = ""
        self.parts: dict[tuple[str, str], frozenset[str]] = {}  # (entity type, generation) -> shards, as last told
        self._eject_after = eject_after
        self._failures = 0
        self._lock = threading.Lock()
        self._where, self._access = target, access
        self._channels: list[grpc.Channel] = []
        self.connect()

    def connect(self) -> None:
        """A channel by the files as they are now; calls in flight end on the one before, which the next one closes."""
        channel = self._access.channel(self._where, _OPTIONS)
        self._stub = retrieval_pb2_grpc.ShardStub(channel)  # type: ignore[no-untyped-call, unused-ignore]
        self._channels.append(channel)
        for old in self._channels[:-2]:
            old.close()
        self._channels = self._channels[-2:]

    def begin(self, method: str, request: Any, timeout_s: float, metadata: Sequence[tuple[str, str]] = ()) -> Any:
        """Start a call of the service `Shard`, with the broker's token if it has one; the gRPC future."""
        call = getattr(self._stub, method)
        return call.future(request, timeout=timeout_s, metadata=(*metadata, *self._access.metadata))

    def succeeded(self) -> None:
        """Count an answer that was right; a leaf that was ejected is back."""
        with self._lock:
            self._failures = 0
            if self.ejected:
                _log.warning("leaf %s answers again", self.target)
            self.ejected = False
            self.last_error = ""

    def failed(self, reason: str) -> None:
        """Count a failure; the leaf is ejected after enough of them in a row."""
        with self._lock:
            self._failures += 1
            self.last_error = reason
            if not self.ejected and self._failures >= self._eject_after:
                self.ejected = True
                _log.warning("leaf %s is ejected after %d failures: %s", self.target, self._failures, reason)

    def state(self) -> LeafState:
        """As `Describe` tells it."""
        shards = sorted(f"{kind}/{shard}" for (kind, _), names in self.parts.items() for shard in names)
        return LeafState(
            target=self.target,
            state="ejected" if self.ejected else "serving",
            shards=tuple(shards),
            last_error=self.last_error,
        )

    def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            channel.close()


class Hedging:
    """When a second replica is asked, and whether the budget allows it. Any thread may use it.

    budget: extra calls as a share of all calls; over any stretch of n calls at most budget x n + 10 are extra.
    """

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._tokens = 0.0
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, ...], deque[float]] = {}
        self._percentiles: dict[tuple[str, ...], tuple[int, float]] = {}
        self.calls = 0
        self.extra = 0

    def note_call(self) -> None:
        """Count a first call, which earns a share of an extra one."""
        with self._lock:
            self.calls += 1
            self._tokens = min(_BANK, self._tokens + self._budget)

    def note_latency(self, replicas: Sequence[str], seconds: float) -> None:
        """What a call to this set of replicas took; of a loser, how long it had run when it was given up."""
        key = tuple(replicas)
        with self._lock:
            window = self._windows.setdefault(key, deque(maxlen=_WINDOW))
            window.append(seconds)
            fresh, known = self._percentiles.get(key, (0, 0.0))
            if len(window) >= _ENOUGH and (fresh + 1 >= _RECOUNT or not known):
                self._percentiles[key] = (0, float(np.quantile(window, 0.95)))
            else:
                self._percentiles[key] = (fresh + 1, known)

    def wait_s(self, replicas: Sequence[str]) -> float | None:
        """Seconds after which a second replica is worth asking: the running p95; None while too little is known."""
        known = self._percentiles.get(tuple(replicas), (0, 0.0))[1]
        return known or None

    def take(self) -> bool:
        """Spend one extra call; False when the budget is used up."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            self.extra += 1
            return True
