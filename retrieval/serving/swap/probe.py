"""A new generation opened and searched in a child process first, so that a crash costs the child and not the server.

`python -m retrieval.serving.swap.probe [--gently] FOLDER [SHARD ...]` is the child: it opens every shard, or those
named, of an already verified generation, replays the canaries (or searches for stored vectors where there are none) and
says in one line of JSON how that went. Gently, it verifies the generation too, and takes only processor time that
nobody else wants. Knows nothing about which generation is live.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from retrieval import errors
from retrieval.serving.calls import DEFAULT_EFFORT
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.shards import LocalShard, open_shards
from retrieval.serving.swap.canaries import read_canaries, replay
from retrieval.store import Generation
from retrieval.store.generation import read_manifest
from retrieval.topk import normalise
from retrieval.types import Metric

_PROBES = 8  # stored vectors searched per shard where there are no canaries
_MODULE = "retrieval.serving.swap.probe"
# Gives way before it imports anything: at the normal priority imports made calls beside it wait for milliseconds.
_GIVE_WAY = f"""
import os
if hasattr(os, "SCHED_IDLE"):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
else:
    os.nice(19)
import site
site.main()
import runpy
runpy.run_module({_MODULE!r}, run_name="__main__", alter_sys=True)
"""


def probe(generation: Generation, *, seconds: float, gently: bool = False) -> None:
    """Open and search the generation in a child process.

    gently: it is not verified yet, and calls are at work that the child must not slow down.
    Raises DamagedData when the child crashes, hangs over `seconds` or finds a fault. MissingDependency (a library is
    not installed) and StoreError (the child gave no verdict) are troubles of this machine.
    """
    name = f"generation {generation.manifest.id} of {generation.manifest.entity_type}"
    start = ["-S", "-c", _GIVE_WAY, "--gently"] if gently else ["-m", _MODULE]
    command = [sys.executable, *start, str(generation.path), *sorted(generation.only or ())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise errors.DamagedData(
            f"{name} did not open in {seconds:g} s in the probing process; rebuild it, or raise --probe-seconds"
        ) from None
    if child.returncode == 0:
        return
    if child.returncode == -signal.SIGKILL:
        raise errors.StoreError(f"{name} could not be probed: the probing process was killed, most likely for memory")
    if child.returncode < 0:
        by = signal.Signals(-child.returncode).name
        raise errors.DamagedData(f"{name} crashed the probing process ({by}); roll back or rebuild")
    lines = child.stdout.strip().splitlines()
    try:
        verdict = json.loads(lines[-1])
        kind, message = verdict["error"], verdict["message"]
    except (IndexError, ValueError, KeyError, TypeError):
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise errors.StoreError(f"{name} could not be probed (exit code {child.returncode}): {last}") from None
    if kind == errors.MissingDependency.__name__:
        raise errors.MissingDependency(message)
    raise errors.DamagedData(message)


def search_once(generation: Generation, shards: list[LocalShard]) -> None:
    """Replay the canaries, or search for a few stored vectors; DamagedData when the answers cannot be right."""
    # the canaries' answers are of all shards together
    canaries = read_canaries(generation) if generation.only is None else None
    if canaries is not None:
        replay(generation, shards, canaries)
        return
    params = Efforts(generation.manifest).choose(DEFAULT_EFFORT, 1).params
    for shard in shards:
        xq = shard.sample(_PROBES)
        if generation.manifest.metric is Metric.COSINE:
            xq = normalise(xq)
        if len(shard.search(xq, 1, params[shard.kind]).scores) < len(xq):
            raise errors.DamagedData(f"{generation.path.name}/{shard.name} finds nothing; roll back or rebuild")


def main() -> int:
    """The child: 0 when all is well, 3 with one line of JSON when a fault was found."""
    gently = sys.argv[1] == "--gently"
    path, *names = sys.argv[1 + gently :]
    try:
        generation = _find(Path(path), frozenset(names) or None, gently=gently)
        search_once(generation, open_shards(generation))
    except Exception as error:  # whatever it is, the parent has to hear of it in one sentence
        message = str(error) if isinstance(error, errors.RetrievalError) else f"{type(error).__name__}: {error}"
        print(json.dumps({"error": type(error).__name__, "message": message}))
        return 3
    return 0


def _find(path: Path, only: frozenset[str] | None, *, gently: bool) -> Generation:
    if not gently:
        return Generation(path=path, manifest=read_manifest(path), only=only)
    return Generation.open(path, threads=1, only=only)


if __name__ == "__main__":
    sys.exit(main())
