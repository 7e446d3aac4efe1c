"""A real S3 server in a process of its own, and a proxy before it that fails as storages do."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from retrieval.store import Mirror, RemoteSettings


@dataclass(frozen=True, kw_only=True)
class Storage:
    """An S3 endpoint. settings: how the store reaches it, quick to give up."""

    endpoint: str

    def settings(self, **values: Any) -> RemoteSettings:
        """Settings for this endpoint, with few tries unless told otherwise."""
        options = {"endpoint_url": self.endpoint, "key": "k", "secret": "s", **values.pop("options", {})}
        defaults = {"attempts": 2, "connect_timeout_s": 2.0, "read_timeout_s": 5.0, "threads": 2}
        return RemoteSettings(**{**defaults, **values, "options": options})

    def new_url(self) -> str:
        """The URL of a store in a bucket of its own, just made."""
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{bucket}", method="PUT"), timeout=10).close()
        return f"s3://{bucket}/store"


@contextmanager
def serving() -> Iterator[Storage]:
    """A server on a free port, for as long as the context is open."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(port, process)
        yield Storage(endpoint=f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=10)


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the S3 server ended at once"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the S3 server does not answer")


@dataclass
class Faults:
    """What the proxy does: `decide` sees every request (number, method, path) and answers with a fault or None.

    Faults: "403", "500", "503", "drop" (the connection ends without an answer), "half" (the body breaks off), "hang".
    """

    decide: Callable[[int, str, str], str | None] = lambda number, method, path: None
    seen: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def flaky(storage: Storage, faults: Faults) -> Iterator[Storage]:
    """A proxy to `storage` with `faults`."""
    target = storage.endpoint.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self._body()
            with faults.lock:
                faults.seen.append((self.command, self.path))
                fault = faults.decide(len(faults.seen), self.command, self.path)
            if fault == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault == "hang":
                time.sleep(1.2)
            if fault in {"403", "500", "503"}:
                code = "AccessDenied" if fault == "403" else "InternalError"
                self._answer(int(fault), [], f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
                return
            connection = http.client.HTTPConnection(target, timeout=10)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read(), half=fault == "half")
            connection.close()

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            out = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return out

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, half: bool = False) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in {"transfer-encoding", "content-length", "connection", "date", "server"}:
                    self.send_header(name, value)
            # the answer to HEAD tells the length of a body that does not come
            length = {k.lower(): v for k, v in headers}.get("content-length")
            self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if half else body)
            if half:
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Storage(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def elsewhere(mirror: Mirror, folder: Path) -> Mirror:
    """The same URL as seen from another machine."""
    return Mirror(mirror.url, folder, settings=mirror.settings)
