"""Where a broker's leaves are: `host:port`, and `dns:name:port` for every address that a name has at the moment.

Names are resolved again at each look, so that leaves come and go with their addresses. A name that cannot be resolved
at the start is a mistake; later it keeps the addresses it had, because a name server that fails is no reason to forget
leaves that answer. Opens no connection.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from retrieval.errors import InvalidParams

Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
_DNS = "dns:"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Target:
    """One leaf. address: host:port; name: the DNS name that has this address, which its certificate then bears."""

    address: str
    name: str | None = None


def resolve(name: str, port: int) -> list[str]:
    """The addresses of a name, sorted; OSError when there are none."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return sorted({str(info[4][0]) for info in found})


class Targets:
    """The leaves that `text` names, separated by , or ;.

    InvalidParams for a target without a port, no target at all, or a name that cannot be resolved.
    """

    def __init__(self, text: str, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        self._text = text
        self._parts = [_read(each.strip()) for each in text.replace(";", ",").split(",") if each.strip()]
        if not self._parts:
            raise InvalidParams("a broker has no leaves: name them with --shards host:port,host:port")
        self._addresses: dict[tuple[str, int], list[str]] = {}
        self._failing: set[str] = set()
        for dns, host, port in self._parts:
            if dns:
                self._addresses[host, port] = self._first(host, port)

    @property
    def has_names(self) -> bool:
        """Whether a later look can find other leaves."""
        return bool(self._addresses)

    def known(self) -> list[Target]:
        """The leaves as the last look found them, each once, in the order of the text."""
        found: dict[str, Target] = {}
        for dns, host, port in self._parts:
            if dns:
                each_of = [Target(_joined(address, port), host) for address in self._addresses[host, port]]
            else:
                each_of = [Target(f"{host}:{port}")]
            for each in each_of:
                found.setdefault(each.address, each)
        return list(found.values())

    def look(self) -> list[Target]:
        """Resolve every name again and give the leaves; may take as long as the name servers do."""
        for host, port in self._addresses:
            try:
                addresses = list(self._resolve(host, port))
                if not addresses:
                    raise OSError("it has no address")
            except OSError as error:
                if host not in self._failing:
                    _log.warning("the name %s cannot be resolved (%s): its last addresses stay", host, error)
                self._failing.add(host)
                continue
            self._failing.discard(host)
            self._addresses[host, port] = addresses
        return self.known()

    def _first(self, host: str, port: int) -> list[str]:
        try:
            found = list(self._resolve(host, port))
        except OSError as error:
            raise InvalidParams(
                f"the name {host!r} cannot be resolved ({error}): check shards = {self._text!r}"
            ) from None
        if not found:
            raise InvalidParams(f"the name {host!r} has no address: check shards = {self._text!r}")
        return found


def _read(text: str) -> tuple[bool, str, int]:
    host, _, port = text.removeprefix(_DNS).rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise InvalidParams(f"leaf {text!r} has no host and port: write host:port, or dns:name:port")
    return text.startswith(_DNS), host, int(port)


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
