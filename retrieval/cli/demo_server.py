"""The demo's server: `retrieval serve` on a free port, stopped at the end unless told to stay."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import Unavailable

_READY = "serving on "


@dataclass(frozen=True)
class Running:
    """A server that answers: its host:port and its process."""

    target: str
    pid: int


@contextmanager
def serving(store: Path, checkpoint: Path, *, stay: bool) -> Iterator[Running]:
    """A server over `store`; Unavailable when it does not come up. With `stay` it outlives the context."""
    log = store.parent / "serve.log"
    command = [sys.executable, "-m", "retrieval.cli", "serve", "--store", str(store), "--checkpoint", str(checkpoint)]
    with log.open("wb") as errors:
        # apart from the terminal, so that an interrupt of the demo does not reach a server that is to stay
        server = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=errors, start_new_session=True, text=True
        )
    assert server.stdout is not None
    finished = False
    try:
        line = server.stdout.readline()
        if not line.startswith(_READY):
            server.wait(timeout=60)
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise Unavailable(f"the demo's server did not start: {last[0]}; its whole log is in {log}")
        yield Running(target=line.removeprefix(_READY).split()[0].rstrip(":"), pid=server.pid)
        finished = True
    finally:
        if not (stay and finished):
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        server.stdout.close()
