"""One question to the shards of a generation: one call per leaf, replicas when it fails, a hedge when it is slow.

Calls run side by side as gRPC futures, and one thread waits for all of them. What does not come in time, fails or does
not decode is tried at another replica while there is time, and costs its shards otherwise. Knows nothing about what the
question or the answers mean.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from retrieval.errors import DamagedData, InvalidArgument, Overloaded, RetrievalError, Unavailable
from retrieval.serving.fleet.leaves import Hedging, Leaf
from retrieval.serving.operate import observing
from retrieval.serving.status import RETRY_METADATA_KEY

_A = TypeVar("_A")
_PATIENCE_S = 0.02  # a leaf that got less time than this is not blamed for being late
_turns = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Question(Generic[_A]):
    """method: of the service `Shard`; request: of the names of shards; decode: response -> answers by shard.

    `decode` raises DamagedData for an answer that cannot be right; an answer may be an Exception.
    """

    method: str
    request: Callable[[Sequence[str]], Any]
    decode: Callable[[Any, Sequence[str]], dict[str, _A | Exception]]


@dataclass(kw_only=True)
class _Attempt:
    leaf: Leaf
    shards: tuple[str, ...]
    replicas: tuple[str, ...]
    began: float
    timeout_s: float
    future: Any = None
    hedged: bool = False


def gather(
    question: Question[_A],
    holders: Mapping[str, Sequence[Leaf]],
    hedging: Hedging,
    timeout_s: float,
    on_stale: Callable[[], None],
) -> dict[str, _A | Exception]:
    """The answer of every shard, or why there is none (Unavailable naming the leaf, Overloaded where it is full).

    holders: the leaves of each shard. timeout_s: of the whole. on_stale: called when a leaf serves another generation.
    InvalidArgument from a leaf is the caller's mistake and is raised.
    """
    end = time.monotonic() + timeout_s
    turn = next(_turns)
    done: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
    answers: dict[str, _A | Exception] = {}
    tried: dict[str, list[Leaf]] = {shard: [] for shard in holders}
    reasons: dict[str, Unavailable | Overloaded] = {}
    running: list[_Attempt] = []
    metadata = observing.outgoing_metadata()

    def left(shard: str) -> list[Leaf]:
        return [leaf for leaf in holders[shard] if leaf not in tried[shard] and not leaf.ejected]

    def ask(shards: Sequence[str], *, extra: bool = False) -> None:
        chosen: dict[tuple[Leaf, tuple[str, ...]], list[str]] = {}
        for shard in shards:
            choices = left(shard)
            if choices:
                leaf = choices[turn % len(choices)]
                chosen.setdefault((leaf, tuple(each.target for each in holders[shard])), []).append(shard)
            elif not any(shard in each.shards for each in running):
                answers[shard] = reasons.get(shard) or Unavailable(_why_none(holders[shard]))
        merged: dict[Leaf, tuple[list[str], tuple[str, ...]]] = {}
        for (leaf, replicas), names in chosen.items():
            merged.setdefault(leaf, ([], replicas))[0].extend(names)
        for leaf, (names, replicas) in merged.items():
            if extra and not hedging.take():
                return
            remaining = end - time.monotonic()
            # time for another replica is kept back where there is one
            others = any(len(left(name)) > 1 for name in names)
            attempt = _Attempt(
                leaf=leaf,
                shards=tuple(names),
                replicas=replicas,
                began=time.monotonic(),
                timeout_s=max(0.001, remaining / 2 if others else remaining),
                hedged=extra,
            )
            for name in names:
                tried[name].append(leaf)
            if not extra:
                hedging.note_call()
            running.append(attempt)
            attempt.future = leaf.begin(question.method, question.request(names), attempt.timeout_s, metadata)
            attempt.future.add_done_callback(lambda _, each=attempt: done.put(each))

    ask(list(holders))
    while running and len(answers) < len(holders):
        now = time.monotonic()
        due = [(at, each) for each in running if (at := _hedge_at(each, hedging)) is not None]
        wake = min((at for at, _ in due), default=end)
        try:
            attempt = done.get(timeout=max(0.0, min(wake, end + 0.005) - now))
        except queue.Empty:
            now = time.monotonic()
            if now >= end + 0.004:
                break
            for at, each in due:
                if at <= now:
                    each.hedged = True
                    ask([name for name in each.shards if name not in answers and left(name)], extra=True)
            continue
        running.remove(attempt)
        try:
            found = question.decode(attempt.future.result(), attempt.shards)
        except InvalidArgument:
            _cancel(running, hedging)
            raise
        except (grpc.RpcError, grpc.FutureCancelledError, RetrievalError, ValueError, KeyError) as error:
            reasons.update(dict.fromkeys(attempt.shards, _blame(attempt, error, on_stale)))
            ask([name for name in attempt.shards if name not in answers])
            continue
        attempt.leaf.succeeded()
        hedging.note_latency(attempt.replicas, time.monotonic() - attempt.began)
        for name, answer in found.items():
            answers.setdefault(name, answer)
        losers = [each for each in running if all(name in answers for name in each.shards)]
        _cancel(losers, hedging)
        running = [each for each in running if each not in losers]
    for attempt in running:
        missing = [name for name in attempt.shards if name not in answers]
        if missing:
            sentence = f"no answer in {attempt.timeout_s * 1e3:.0f} ms"
            if attempt.timeout_s >= _PATIENCE_S:
                attempt.leaf.failed(sentence)
            for name in missing:
                answers[name] = Unavailable(f"leaf {attempt.leaf.target}: {sentence}")
    _cancel(running, hedging)
    return answers


def _hedge_at(attempt: _Attempt, hedging: Hedging) -> float | None:
    if attempt.hedged or len(attempt.replicas) < 2:
        return None
    wait = hedging.wait_s(attempt.replicas)
    return None if wait is None else attempt.began + wait


def _cancel(attempts: Sequence[_Attempt], hedging: Hedging) -> None:
    now = time.monotonic()
    for attempt in attempts:
        attempt.future.cancel()
        hedging.note_latency(attempt.replicas, now - attempt.began)


def _why_none(leaves: Sequence[Leaf]) -> str:
    if not leaves:
        return "no leaf serves it"
    return ", ".join(f"leaf {leaf.target} is ejected ({leaf.last_error})" for leaf in leaves)


def _blame(attempt: _Attempt, error: Exception, on_stale: Callable[[], None]) -> Unavailable | Overloaded:
    """Why a call failed; counts against the leaf unless it could not help it.

    A leaf that is full answers, and ejecting it would only send its share to replicas as full: it is not counted.
    """
    leaf = attempt.leaf
    if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(f"leaf {leaf.target}: {error.details()}", retry_after_ms=_retry_after_ms(error))
    return Unavailable(f"leaf {leaf.target}: {_fault(attempt, error, on_stale)}")


def _retry_after_ms(error: grpc.Call) -> int:
    told = dict(error.trailing_metadata() or ()).get(RETRY_METADATA_KEY, "")
    return int(told) if isinstance(told, str) and told.isascii() and told.isdigit() else 1


def _fault(attempt: _Attempt, error: Exception, on_stale: Callable[[], None]) -> str:
    if not isinstance(error, grpc.RpcError):
        reason = f"answers rubbish ({error})" if isinstance(error, DamagedData) else type(error).__name__
        attempt.leaf.failed(reason)
        return reason
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = (error.details() or "") if isinstance(error, grpc.Call) else ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        raise InvalidArgument(details)
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        on_stale()
        return details
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        reason = f"no answer in {attempt.timeout_s * 1e3:.0f} ms"
        if attempt.timeout_s >= _PATIENCE_S:
            attempt.leaf.failed(reason)
        return reason
    reason = f"{code.name} {details}".strip()
    attempt.leaf.failed(reason)
    return reason
