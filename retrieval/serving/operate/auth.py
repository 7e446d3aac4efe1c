"""Who calls, and how much they may: bearer tokens by their SHA-256, a token bucket per caller.

    [callers.search-web]
    token_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    requests_per_second = 500     # absent: no limit
    burst = 1000                  # requests at once after a pause; absent: one second's worth

The file is read again when it changes, so that a token is withdrawn without a restart. Tokens are random and long, so
a plain digest suffices. Quotas hold per process. Knows nothing about TLS or methods.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import InvalidParams, NotAuthenticated, QuotaExceeded
from retrieval.serving.operate.settings_file import read_toml

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
_SCHEME = "bearer "


class CallerSettings(BaseModel):
    """One caller of the tokens file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the token's UTF-8 bytes, in hex")
    requests_per_second: float | None = Field(None, gt=0, le=1e9, description="mean rate that is granted")
    burst: float | None = Field(None, ge=1, le=1e9, description="requests that may come at once")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    callers: dict[str, CallerSettings] = Field(min_length=1)


@dataclass
class _Bucket:
    """Token bucket: fills at `rate` per second up to `size`, a request takes one."""

    rate: float
    size: float
    level: float
    filled: float  # seconds
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, now: float) -> float:
        """Seconds to wait, 0 when one was taken."""
        with self.lock:
            self.level = min(self.size, self.level + (now - self.filled) * self.rate)
            self.filled = now
            if self.level >= 1:
                self.level -= 1
                return 0.0
            return (1 - self.level) / self.rate


@dataclass(frozen=True)
class _Caller:
    name: str
    digest: bytes
    bucket: _Bucket | None


class Callers:
    """The callers of a tokens file; any number of threads may ask."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic, look_seconds: float = _LOOK_SECONDS
    ) -> None:
        self._path = path
        self._clock = clock
        self._look_seconds = look_seconds
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._next_look = clock() + look_seconds
        self._callers = self._read({})

    @property
    def names(self) -> list[str]:
        """The callers' names."""
        return [each.name for each in self._callers]

    def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The caller's name; NotAuthenticated without a known token, QuotaExceeded beyond the caller's rate."""
        self._look()
        found = [value for key, value in metadata if key == "authorization"]
        text = found[0] if found and isinstance(found[0], str) else ""
        if not text.lower().startswith(_SCHEME):
            raise NotAuthenticated("the call carries no token: send metadata 'authorization: Bearer TOKEN'")
        digest = hashlib.sha256(text[len(_SCHEME) :].strip().encode()).digest()
        known = None
        for each in self._callers:  # all of them, whichever fits: the time tells nothing
            if hmac.compare_digest(each.digest, digest):
                known = each
        if known is None:
            raise NotAuthenticated("the token is not one that this server knows: ask its operator for a valid one")
        if known.bucket is not None and (wait := known.bucket.take(self._clock())):
            raise QuotaExceeded(
                f"caller {known.name} is over its quota of {known.bucket.rate:g} requests/s (burst "
                f"{known.bucket.size:g}): try again in {wait * 1e3:.0f} ms, or ask for a larger quota",
                retry_after_ms=math.ceil(wait * 1e3),
            )
        return known.name

    def _look(self) -> None:
        now = self._clock()
        if now < self._next_look:
            return
        with self._lock:
            if now < self._next_look:
                return
            self._next_look = now + self._look_seconds
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self._callers = self._read({each.name: each for each in self._callers})
            except InvalidParams as error:
                _log.error("the tokens file is not taken up, the old callers stay: %s", error)
                return
            _log.info("tokens file taken up: %d callers", len(self._callers))

    def _read(self, before: dict[str, _Caller]) -> tuple[_Caller, ...]:
        now = self._clock()
        callers = []
        for name, each in read_callers(self._path).items():
            bucket = None
            if each.requests_per_second is not None:
                size = each.burst or max(1.0, each.requests_per_second)
                old = before[name].bucket if name in before else None
                # a file that changed does not refill anybody's bucket
                level = size if old is None else min(size, old.level)
                bucket = _Bucket(rate=each.requests_per_second, size=size, level=level, filled=now)
            callers.append(_Caller(name, bytes.fromhex(each.token_sha256), bucket))
        return tuple(callers)


def read_callers(path: Path) -> dict[str, CallerSettings]:
    """The callers of a tokens file by name; InvalidParams names what is wrong, never a token."""
    try:
        callers = _File.model_validate(read_toml(path)).callers
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidParams(f"{path}: {place}: {first['msg'].lower()}") from None
    digests = [each.token_sha256 for each in callers.values()]
    if len(set(digests)) != len(digests):
        raise InvalidParams(f"{path}: two callers have the same token: give each its own")
    for name, each in callers.items():
        if each.burst is not None and each.requests_per_second is None:
            raise InvalidParams(f"{path}: caller {name} has a burst without requests_per_second: set both or neither")
    return callers


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
