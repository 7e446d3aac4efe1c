"""Kills writers of one log at random moments and holds what is left against what was acknowledged.

    python killed_writer.py FOLDER ROUNDS SEED

A process of its own, because it forks: the writer is this program without threads, so that a kill costs milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from retrieval.delta import Deletes, DeltaLog, Header, Upserts, fold
from retrieval.types import IdType

HEADER = Header(space_id="a-space", d=8, id_type=IdType.INT64)
IDS = 40


def write(home: Path, out: int, seed: int) -> None:
    """Write for ever; each write is told before it begins and after it was acknowledged."""
    rng = random.Random(seed)
    log = DeltaLog(home, HEADER, segment_bytes=20_000)
    value = seed % 1_000 * 10_000  # exact in float32
    while True:
        ids = rng.sample(range(IDS), rng.randint(1, 5))
        value += 1
        deleting = rng.random() < 0.3
        os.write(out, (json.dumps(["begin", deleting, ids, value]) + "\n").encode())
        if deleting:
            log.append(Deletes(ids=ids))
        else:
            log.append(Upserts(ids=ids, vectors=np.full((len(ids), 8), value, np.float32), attributes=[{}] * len(ids)))
        os.write(out, b'["done"]\n')


def apply(state: dict[int, int], deleting: bool, ids: list[int], value: int) -> dict[int, int]:
    """The state after a write."""
    after = {id_: held for id_, held in state.items() if id_ not in ids}
    return after if deleting else after | dict.fromkeys(ids, value)


def main(home: Path, rounds: int, seed: int) -> None:
    """Kill, check, go on."""
    rng, state, writes = random.Random(seed), dict[int, int](), 0
    for number in range(rounds):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            write(home, writing, seed * 1_000 + number)
        os.close(writing)
        time.sleep(rng.uniform(0.002, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading) as told:
            lines = [json.loads(line) for line in told if line.endswith("\n")]
        pending = None
        for line in lines:
            if line[0] == "begin":
                pending = line[1:]
            elif pending is not None:
                state, pending, writes = apply(state, *pending), None, writes + 1
        folded = fold(home)
        found = {int(id_): int(vector[0]) for id_, vector in zip(folded.ids, folded.vectors, strict=True)}
        assert len(found) == len(folded.ids), f"round {number}: an id twice"
        # the write that was on its way is there whole or not at all
        possible = [state] if pending is None else [state, apply(state, *pending)]
        assert found in possible, f"round {number}: {found} is none of {possible}"
        state = found
    print(f"{rounds} kills, {writes} writes acknowledged, {len(state)} entities")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
