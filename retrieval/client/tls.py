"""TLS as a caller sees it: whom to trust, and what to show.

Knows nothing about calls; tokens go with each call and not with the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from retrieval.errors import InvalidParams


@dataclass(frozen=True, kw_only=True)
class Tls:
    """An encrypted connection.

    ca: PEM file of the authorities that may have signed the server's certificate; None trusts those of the system.
    certificate, key: PEM files that the caller shows where the server asks for them. server_name: the name the server's
    certificate must have, where it is not the one in the target.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC channel; InvalidParams when a file cannot be read or one of the pair is missing."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidParams("a client certificate and its key go together: give both or neither")
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))

    def options(self) -> list[tuple[str, str]]:
        """Channel options that go with the credentials."""
        return [] if self.server_name is None else [("grpc.ssl_target_name_override", self.server_name)]


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise InvalidParams(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
