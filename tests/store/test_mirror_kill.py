"""kill -9 while a generation is sent and published: the old or the new one is live, whole; the next run ends it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from object_storage import Storage
from tiny_store import make_store

from retrieval.store import Mirror
from retrieval.store.gc import collect_garbage

JOB = """
import json, sys
from pathlib import Path
from retrieval.store import Mirror, RemoteSettings
url, local, generation, settings = sys.argv[1:]
mirror = Mirror(url, Path(local), settings=RemoteSettings(**json.loads(settings)))
print("ready", flush=True)
with mirror.lease("pin", owner="job") as lease:
    mirror.push("pin", generation)
    mirror.move_pointer("pin", generation, lease=lease)
print("done", flush=True)
"""


def start(mirror: Mirror, generation: str) -> subprocess.Popen[str]:
    settings = json.dumps(mirror.settings.model_dump())
    arguments = [mirror.url, str(mirror.store.root), generation, settings]
    process = subprocess.Popen([sys.executable, "-c", JOB, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.long)])
def test_a_killed_job_leaves_one_whole_generation_live(storage: Storage, tmp_path: Path, kills: int) -> None:
    made = [make_store(tmp_path / "local", 400, 16, 2, seed=seed).manifest.id for seed in range(2)]
    mirror = Mirror(storage.new_url(), tmp_path / "local", settings=storage.settings())
    mirror.push("pin", made[0])
    mirror.move_pointer("pin", made[0])
    began = time.monotonic()
    process = start(mirror, made[1])
    began = time.monotonic()
    assert process.communicate()[0] == "done\n"
    whole_s = time.monotonic() - began
    rng = np.random.default_rng(kills)
    torn = 0
    for _ in range(kills):
        mirror.move_pointer("pin", made[0])
        mirror.delete("pin", made[1])
        process = start(mirror, made[1])
        time.sleep(float(rng.uniform(0, whole_s)))
        process.kill()
        process.communicate()
        live = mirror.current("pin")
        assert live in made
        assert mirror.findings("pin", live) == {}
        torn += live == made[0]
        process = start(mirror, made[1])  # the dead job's lease does not hold it up, and it sends only what is missing
        assert process.communicate()[0] == "done\n"
        assert mirror.current("pin") == made[1]
        assert mirror.findings("pin", made[1]) == {}
        assert [each for each in collect_garbage(mirror, "pin", keep=9) if each.name in made] == []
    print(f"{kills} kills, {torn} before the pointer moved, within {whole_s:.2f} s")
