"""Ports before gRPC gets them: whether one can be had, and one held for several processes.

gRPC's own failure to bind comes with lines of its C core on standard error and without the reason.
"""

from __future__ import annotations

import socket

from retrieval.errors import FailedPrecondition


def check_port(host: str, port: int) -> None:
    """FailedPrecondition, with the reason, when nobody could listen there."""
    _bound(host, port, socket.SO_REUSEADDR).close()


def hold_port(host: str, port: int) -> socket.socket:
    """A socket bound to the port, for processes that set SO_REUSEPORT; port 0 picks one.

    It does not listen, so it gets no connections, but it keeps the port while workers come and go.
    """
    check_port(host, port)
    return _bound(host, port, socket.SO_REUSEPORT)


def _bound(host: str, port: int, option: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind, protocol)
        try:
            held.setsockopt(socket.SOL_SOCKET, option, 1)
            held.bind(address)
        except OSError:
            held.close()
            raise
        return held
    except OSError as error:
        raise FailedPrecondition(
            f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}; choose another --host or --port"
        ) from None
