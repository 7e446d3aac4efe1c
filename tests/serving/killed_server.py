"""Run by test_serve_kill: for each line "store, file" read from stdin, serves the store in a forked child till killed.

A store at a URL has a third word, the folder of its copy.

The child prints its port, and appends to the file what it does of a swap: "fetch", "verify", "open", "serve" and
"served". All is imported before the first fork, so that a life costs milliseconds. The probing process, which costs a
second and has tests of its own, is left out: what it verifies is verified here.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

from retrieval.indexes import flat  # noqa: F401
from retrieval.serving.config import make_settings
from retrieval.serving.server import Server, open_engine
from retrieval.serving.swap import load
from retrieval.serving.swap.follow import Follower
from retrieval.serving.swap.origin import Origin
from retrieval.serving.swap.ready import ReadyProber
from retrieval.store import Generation


def note_stages(told: int) -> None:
    """From now on tell where a swap is."""
    opening, serving, bringing = load.open_shards, Follower._serve, Origin.bring

    def brought(*arguments) -> None:  # type: ignore[no-untyped-def]
        os.write(told, b"fetch\n")
        bringing(*arguments)

    def verify(generation: Generation, *, seconds: float, gently: bool = False) -> None:
        os.write(told, b"verify\n")
        Generation.open(generation.path, only=generation.only)

    def opened(*arguments, **more):  # type: ignore[no-untyped-def]
        os.write(told, b"open\n")
        return opening(*arguments, **more)

    def served(*arguments) -> None:  # type: ignore[no-untyped-def]
        os.write(told, b"serve\n")
        serving(*arguments)
        os.write(told, b"served\n")

    load.probe, load.open_shards, Follower._serve = verify, opened, served  # type: ignore[method-assign]
    Origin.bring = brought  # type: ignore[method-assign]
    ReadyProber.start = lambda self: None  # type: ignore[method-assign]


def serve(store: str, stages: str, cache: str | None = None) -> None:
    """Serve until killed."""
    follow = {"poll_seconds": 0.02, "watch_seconds": 0.0, "cache": cache}
    settings = make_settings(store=store, port=0, follow=follow)
    server = Server(engine := open_engine(settings), settings)
    note_stages(os.open(stages, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    print(server.start(), flush=True)
    while engine:
        signal.pause()


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                serve(*line.split())
            finally:
                traceback.print_exc()
                print(0, flush=True)
                os._exit(1)
        print(child, flush=True)
        os.waitpid(child, 0)
