"""kill -9 at random moments of build and publish: the old one serves, the next run completes, nothing remains."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from index_builders.build import build
from index_builders.settings import make_settings
from retrieval.store import Store

SCRIPT = Path(__file__).with_name("killed_build.py")
ROOT = Path(__file__).parents[2]
MOMENTS = 22


class Builds:
    """Builds in child processes that can be killed; see killed_build.py."""

    def __init__(self, source: Path, store: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SCRIPT), str(source), str(store)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> "Builds":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, seed: int, kill_after_s: float | None = None) -> bool:
        """Build with `seed`; True if it ran to its end, False if the kill came first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(seed, file=self._process.stdin, flush=True)
        child = int(self._process.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        status = int(self._process.stdout.readline())
        assert status in {0, signal.SIGKILL}, "the build failed by itself"
        return status == 0


def leftovers(store: Path) -> list[str]:
    return [
        str(path.relative_to(store))
        for path in store.rglob("*")
        if path.suffix == ".tmp" or path.name == "staging" or path.name.startswith((".removed", ".building"))
    ]


def test_killed_at_random_moments(write, tmp_path):
    source, store_path = write(1_200), tmp_path / "store"
    with Builds(source, store_path) as builds:
        builds.run(0)
        began = time.perf_counter()
        builds.run(1)
        whole_s = time.perf_counter() - began
        store = Store(store_path)
        live, seed, killed_at_work = store.current("pin"), 2, 0
        rng = np.random.default_rng(0)
        for moment in range(MOMENTS):
            # one in four aims at the end, where the generation is admitted and the pointer moves
            low = 0.75 if moment % 4 == 0 else 0.0
            killed_at_work += not builds.run(seed, whole_s * float(rng.uniform(low, 1.0)))
            now = store.current("pin")
            store.open("pin", now)  # whatever is live is whole
            if now != live:
                live, seed = now, seed + 1  # it died after publishing: the next one builds another generation
    report = build(
        make_settings(
            source=source, store=store_path, entity_type="pin", kind="flat", shards=12, workers=0, verify_queries=10,
            keep=2, seed=seed,
        )
    )  # fmt: skip
    assert report.live
    assert store.current("pin") == report.manifest.id
    assert leftovers(store_path) == []
    assert len(store.generations("pin")) <= 3
    assert killed_at_work >= MOMENTS // 2, "the moments missed the build; the test proves nothing"


@pytest.mark.parametrize("stage", ["read", "shard-00003", "verify", "manifest", "admitted", "live"])
def test_killed_right_after_each_step(write, tmp_path, stage):
    """Not random: the process ends itself, without any clean-up, at the edge of each step."""
    source, store_path = write(1_200), tmp_path / "store"
    code = f"""
import os, sys
sys.argv = ["x", {str(source)!r}, {str(store_path)!r}, "0"]
from index_builders import publish, staging
from retrieval.store import Store
stage = {stage!r}
def after(owner, name, wanted):
    real = getattr(owner, name)
    def wrapped(*args, **kwargs):
        result = real(*args, **kwargs)
        if wanted(*args):
            os._exit(9)
        return result
    setattr(owner, name, wrapped)
after(staging.Staging, "seal", lambda self, name, *rest: name == stage)
after(publish, "write_atomically", lambda *args: stage == "manifest")
after(Store, "admit", lambda *args: stage == "admitted")
after(Store, "publish", lambda *args: stage == "live")
sys.path.insert(0, {str(SCRIPT.parent)!r})
import killed_build
killed_build.build_once(0)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    store = Store(store_path)
    assert (len(store.generations("pin")) == 1) == (stage in {"admitted", "live"})
    with Builds(source, store_path) as builds:
        assert builds.run(0)
    assert len(store.generations("pin")) == 1, "the killed run's work was not taken up"
    store.open("pin", store.current("pin"))
    assert leftovers(store_path) == []
