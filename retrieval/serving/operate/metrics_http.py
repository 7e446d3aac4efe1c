"""The HTTP port for machines that watch: /metrics, /healthz (the process answers), /readyz (it serves).

Its own port, because gRPC's may ask for certificates and tokens that a scraper or a probe does not have. Reads only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from retrieval.errors import FailedPrecondition

_PAGE_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = 10.0  # a client that says nothing for so long is hung up on


class MetricsServer:
    """An HTTP server in a thread. page: what /metrics answers; is_ready: whether /readyz says yes.

    FailedPrecondition when the port cannot be had.
    """

    def __init__(self, host: str, port: int, page: Callable[[], bytes], is_ready: Callable[[], bool]) -> None:
        def answer(path: str) -> tuple[int, bytes]:
            if path == "/metrics":
                return 200, page()
            if path == "/healthz":
                return 200, b"alive\n"
            if path == "/readyz":
                return (200, b"serving\n") if is_ready() else (503, b"not serving\n")
            return 404, b"there are /metrics, /healthz and /readyz\n"

        class Handler(BaseHTTPRequestHandler):
            timeout = _SECONDS

            def do_GET(self) -> None:
                try:
                    status, body = answer(self.path.partition("?")[0])
                except Exception as error:
                    status, body = 500, f"{type(error).__name__}: {error}\n".encode()
                self.send_response(status)
                self.send_header("Content-Type", _PAGE_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing: a probe every second is no news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot listen on {host}:{port} for metrics: {(error.strerror or str(error)).lower()}; choose another "
                "metrics_port"
            ) from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
