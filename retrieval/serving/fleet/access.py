"""How a broker reaches its leaves: plainly or over TLS, with a certificate to show, with a token to send.

The files are read and tried at the start, and looked at again with every look at the fleet: new ones are taken up, and
new ones that cannot be used change nothing. Knows nothing about shards or about which leaves there are.
"""

from __future__ import annotations

import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from retrieval.errors import InvalidParams
from retrieval.serving.config import ServingSettings
from retrieval.serving.fleet.targets import Target
from retrieval.serving.operate.credentials import read_file, read_shown, stamp

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LeafFiles:
    """Contents of the files. token: None without one; expires: UNIX seconds, of the certificate to show."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    expires: float | None = None
    token: str | None = None

    @property
    def secure(self) -> bool:
        """Whether the leaves are spoken to over TLS."""
        return self.ca is not None or self.certificate is not None


def read_leaf_files(settings: ServingSettings) -> LeafFiles:
    """Read and try the files that the settings of a broker name; InvalidParams names the file and what is wrong."""
    certificate, key, expires = None, None, None
    if settings.leaf_certificate is not None and settings.leaf_key is not None:
        shown = read_shown(settings.leaf_certificate, settings.leaf_key)
        certificate, key, expires = shown.certificate, shown.key, shown.expires
    return LeafFiles(
        ca=None if settings.leaf_ca is None else _read_authority(settings.leaf_ca),
        certificate=certificate,
        key=key,
        expires=expires,
        token=None if settings.leaf_token_file is None else _read_token(settings.leaf_token_file),
    )


def describe(settings: ServingSettings) -> str:
    """A sentence on how the leaves are reached; InvalidParams as `read_leaf_files`."""
    files = read_leaf_files(settings)
    way = "plainly" if not files.secure else "over TLS"
    shown = ""
    if files.expires is not None:
        day = time.strftime("%Y-%m-%d", time.gmtime(files.expires))
        shown = f", showing {settings.leaf_certificate} (valid until {day})"
    return f"leaves are reached {way}{shown}, {'with' if files.token else 'without'} a token"


class LeafAccess:
    """The files in use; InvalidParams when they cannot be used at the start."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._paths = (settings.leaf_ca, settings.leaf_certificate, settings.leaf_key, settings.leaf_token_file)
        self._seen = [stamp(path) for path in self._paths]
        self._files = read_leaf_files(settings)
        self.metadata = _metadata(self._files)

    def channel(self, target: Target, options: list[tuple[str, Any]]) -> grpc.Channel:
        """A channel to one leaf, as the files are now."""
        files = self._files
        if not files.secure:
            return grpc.insecure_channel(target.address, options=options)
        if target.name is not None:  # the certificate is for the name, and the target is one of its addresses
            options = [*options, ("grpc.ssl_target_name_override", target.name)]
        credentials = grpc.ssl_channel_credentials(files.ca, files.key, files.certificate)
        return grpc.secure_channel(target.address, credentials, options=options)

    def look(self) -> bool:
        """Take up files that changed; True when channels have to be made anew."""
        seen = [stamp(path) for path in self._paths]
        if seen == self._seen:
            return False
        self._seen = seen
        before = self._files
        try:
            self._files = read_leaf_files(self._settings)
        except InvalidParams as error:
            _log.error("the new files for the leaves are not taken up, the old ones stay in use: %s", error)
            return False
        self.metadata = _metadata(self._files)
        _log.info("new files for the leaves are taken up")
        return (before.ca, before.certificate, before.key) != (
            self._files.ca,
            self._files.certificate,
            self._files.key,
        )


def _metadata(files: LeafFiles) -> tuple[tuple[str, str], ...]:
    return () if files.token is None else (("authorization", f"Bearer {files.token}"),)


def _read_authority(path: Path) -> bytes:
    data = read_file(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError):
        raise InvalidParams(f"{path} holds no certificate authority in PEM form: name the leaves' authority") from None
    return data


def _read_token(path: Path) -> str:
    try:
        token = read_file(path).decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable():
        raise InvalidParams(f"{path} holds no token: put one line of printable ASCII text into it")
    return token
