"""A new generation opened and searched in a child process first, so that a crash costs the child and not the server.

`python -m retrieval.serving.swap.probe FOLDER [SHARD ...]` is the child: it opens every shard, or those named, of an
already verified generation, replays the canaries (or searches for stored vectors where there are none) and says in one
line of JSON how that went. With --wait it is the process kept ready that probes beside calls at work, and verifies
too. Knows nothing about which generation is live.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from retrieval import errors
from retrieval.serving.calls import DEFAULT_EFFORT
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.shards import LocalShard, open_shards
from retrieval.serving.swap.canaries import read_canaries, replay
from retrieval.serving.swap.ready import WAIT, ReadyProber, serve
from retrieval.store import Generation
from retrieval.store.generation import read_manifest
from retrieval.topk import normalise
from retrieval.types import Metric

_PROBES = 8  # stored vectors searched per shard where there are no canaries
_MODULE = "retrieval.serving.swap.probe"
_VERIFY = "--verify"


def probe(generation: Generation, *, seconds: float, gently: ReadyProber | None = None) -> None:
    """Open and search the generation in a child process.

    gently: what probes beside calls at work, which must not slow them down; the generation is not verified yet then.
    Raises DamagedData when the child crashes, hangs over `seconds` or finds a fault. MissingDependency (a library is
    not installed) and StoreError (the child gave no verdict) are troubles of this machine.
    """
    name = f"generation {generation.manifest.id} of {generation.manifest.entity_type}"
    arguments = [str(generation.path), *sorted(generation.only or ())]
    try:
        if gently is not None:
            code, said = gently.run([_VERIFY, *arguments], seconds)
            _tell(name, code, said, "")
        else:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            child = subprocess.run(
                [sys.executable, "-m", _MODULE, *arguments],
                capture_output=True,
                text=True,
                timeout=seconds,
                env=environment,
                check=False,
            )
            _tell(name, child.returncode, child.stdout, child.stderr)
    except (subprocess.TimeoutExpired, TimeoutError):
        raise errors.DamagedData(
            f"{name} did not open in {seconds:g} s in the probing process; rebuild it, or raise --probe-seconds"
        ) from None


def _tell(name: str, code: int, said: str, complained: str) -> None:
    """Raise what the child's exit code and words mean; nothing when all is well."""
    if code == 0:
        return
    if code == -signal.SIGKILL:
        raise errors.StoreError(f"{name} could not be probed: the probing process was killed, most likely for memory")
    if code < 0:
        by = signal.Signals(-code).name
        raise errors.DamagedData(f"{name} crashed the probing process ({by}); roll back or rebuild")
    lines = said.strip().splitlines()
    try:
        verdict = json.loads(lines[-1])
        kind, message = verdict["error"], verdict["message"]
    except (IndexError, ValueError, KeyError, TypeError):
        last = (complained.strip().splitlines() or ["no message"])[-1]
        raise errors.StoreError(f"{name} could not be probed (exit code {code}): {last}") from None
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


def check(arguments: Sequence[str]) -> tuple[int, str]:
    """0 and "" when all is well, 3 and one line of JSON when a fault was found. arguments: as on the command line."""
    verify = arguments[0] == _VERIFY
    path, *names = arguments[verify:]
    only = frozenset(names) or None
    try:
        if verify:
            generation = Generation.open(Path(path), threads=1, only=only)
        else:
            generation = Generation(path=Path(path), manifest=read_manifest(Path(path)), only=only)
        search_once(generation, open_shards(generation))
    except Exception as error:  # whatever it is, the parent has to hear of it in one sentence
        message = str(error) if isinstance(error, errors.RetrievalError) else f"{type(error).__name__}: {error}"
        return 3, json.dumps({"error": type(error).__name__, "message": message})
    return 0, ""


def main() -> int:
    """The child: what `check` says."""
    if sys.argv[1] == WAIT:
        serve(Connection(int(sys.argv[2])), check)
        return 0
    code, said = check(sys.argv[1:])
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main())
