"""TLS of the server: files checked before use, and taken up anew when they change.

A certificate is tried in a handshake in memory with the standard library, which finds what gRPC would only show as
failing calls: a key that does not fit, a chain out of order, a certificate that is expired or not yet valid. Knows
nothing about callers' tokens (`auth`).
"""

from __future__ import annotations

import logging
import ssl
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from retrieval.errors import InvalidParams
from retrieval.serving.config import ServingSettings

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0  # between two looks at the files, however many connections come


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Contents of the PEM files. expires: UNIX seconds until which the server's own certificate is valid."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    expires: float


class TlsReloader:
    """Credentials that follow their files.

    Files that change into something unusable are named once in the log, and the last good ones stay in use: they are
    often replaced one after the other, and a server that answers is worth more than one that stopped.
    """

    def __init__(self, settings: ServingSettings) -> None:
        if settings.tls_certificate is None or settings.tls_key is None:
            raise InvalidParams("there is no tls_certificate: TLS cannot be offered")
        self._paths = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        self._lock = threading.Lock()
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._seen = self._stamps()
        self._files = read_tls(*self._paths)

    @property
    def expires(self) -> float:
        """UNIX seconds until which the certificate in use is valid."""
        return self._files.expires

    def credentials(self) -> grpc.ServerCredentials:
        """What a gRPC server's secure port takes; with a client CA a caller must show a certificate of it."""
        changed: Any = self._changed  # the stubs forget that it may return None
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._files), changed, require_client_authentication=self._files.client_ca is not None
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks before every handshake
        with self._lock:
            now = time.monotonic()
            if now < self._next_look:
                return None
            self._next_look = now + _LOOK_SECONDS
            stamps = self._stamps()
            if stamps == self._seen:
                return None
            self._seen = stamps
            try:
                self._files = read_tls(*self._paths)
            except InvalidParams as error:
                _log.error("the new certificate files are not taken up, the old ones stay in use: %s", error)
                return None
            _log.info("certificate files taken up, valid until %s", _day(self._files.expires))
            return _configuration(self._files)

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [stamp(path) for path in self._paths]


def read_shown(certificate: Path, key: Path) -> TlsFiles:
    """Read and try the pair that a caller shows to a server; InvalidParams names the file and what is wrong with it."""
    parts = (read_file(certificate), read_file(key))
    expires = _try_handshake(certificate, key, of_caller=True)
    return TlsFiles(certificate=parts[0], key=parts[1], client_ca=None, expires=expires)


def read_tls(certificate: Path, key: Path, client_ca: Path | None = None) -> TlsFiles:
    """Read and try the PEM files; InvalidParams names the file and what is wrong with it."""
    parts = [read_file(certificate), read_file(key), None if client_ca is None else read_file(client_ca)]
    expires = _try_handshake(certificate, key)
    if client_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(client_ca)
        except (ssl.SSLError, OSError):
            raise InvalidParams(f"{client_ca} holds no certificate authority in PEM form") from None
    return TlsFiles(certificate=parts[0] or b"", key=parts[1] or b"", client_ca=parts[2], expires=expires)


def _try_handshake(certificate: Path, key: Path, *, of_caller: bool = False) -> float:
    # of a caller: it shows the pair and the server judges it, which needs some pair of its own and takes the same
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # the names are for callers to judge; here it is the dates that count
    judge = server if of_caller else client
    try:
        # an empty password, so that a key with one is an error and not a question on the terminal
        for holder in (server, client) if of_caller else (server,):
            holder.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        reason = {"KEY_VALUES_MISMATCH": f"{key} is not the key of {certificate}"}.get(
            str(error.reason), f"{certificate} and {key} are not a certificate and its unencrypted key in PEM form"
        )
        raise InvalidParams(f"{reason}: give the two files of one pair") from None
    client.verify_mode = ssl.CERT_NONE if of_caller else ssl.CERT_REQUIRED
    server.verify_mode = ssl.CERT_REQUIRED if of_caller else ssl.CERT_NONE
    judge.verify_flags |= ssl.VerifyFlags(0x80000)  # X509_V_FLAG_PARTIAL_CHAIN: trust the certificate itself
    leaf = certificate.read_text(errors="replace").split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as own:
        own.write(leaf[leaf.find("-----BEGIN") :])
        own.flush()
        judge.load_verify_locations(own.name)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for end in [*ends, *ends]:  # two rounds complete a handshake of TLS 1.3
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            raise InvalidParams(
                f"{certificate} cannot be used: {error.verify_message}; put a valid certificate in its place"
            ) from None
    found = ends[1 if of_caller else 0].getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(found["notAfter"])))


def _configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.client_ca)


def read_file(path: Path) -> bytes:
    """The bytes of a file; InvalidParams names it when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidParams(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written; None without a file."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
