"""`generations`, `publish`, `rollback`, `gc` and `check` on a URL, as a person calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_store import make_store

from retrieval.store import Mirror, Store


def call(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "retrieval.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def made(tmp_path: Path) -> list[str]:
    return [make_store(tmp_path / "local", 40, 4, 2, seed=seed, canaries=True).manifest.id for seed in range(2)]


def test_a_store_at_a_url_from_first_publish_to_rollback(made, tmp_path):
    first, second = made
    url, cache = f"file://{tmp_path / 'shared'}", str(tmp_path / "local")
    call("publish", url, "pin", first, "--cache", cache)
    told = json.loads(call("publish", url, "pin", second, "--cache", cache, "--json").stdout.splitlines()[-1])
    assert told == {"entity_type": "pin", "live": second}
    listed = json.loads(call("generations", url, "--json").stdout.splitlines()[-1])["generations"]
    assert [(row["generation"], row["live"]) for row in listed] == [(first, False), (second, True)]
    assert call("check", url, "pin").stdout.endswith(f"generation {second} of pin: whole\n")
    back = call("rollback", url, "pin", "--json").stdout.splitlines()
    assert back[-2] == f"generation {first} of pin is live"
    assert json.loads(back[-1]) == {"entity_type": "pin", "live": first, "passed_over": []}
    assert "no generation of 'pin' that was live before" in call("rollback", url, "pin", code=1).stderr
    assert "to remove: nothing\n" in call("gc", url, "pin", "--keep", "1", "--dry-run").stdout
    assert Store(tmp_path / "local").current("pin") == second  # the copy's own pointer is its own business


def test_damage_and_unknown_files_at_a_url_get_a_verdict(made, tmp_path):
    mirror = Mirror(f"file://{tmp_path / 'shared'}", tmp_path / "local")
    mirror.push("pin", made[0])
    folder = tmp_path / "shared" / "pin" / "generations" / made[0]
    (folder / "notes.txt").write_text("x")
    vectors = folder / "shard-00001" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    printed = call("check", mirror.url, "pin", made[0], code=1).stdout
    assert "BAD  notes.txt: not in the manifest" in printed
    assert "BAD  shard-00001/vectors.npy: has " in printed
    assert "ok   shard-00000/vectors.npy" in printed
    error = call("publish", mirror.url, "pin", made[0], code=1).stderr
    assert f"generation {made[0]} in {mirror.url} is damaged: notes.txt not in the manifest; shard-00001" in error
    (folder / "manifest.json").write_text("{}")
    assert "BAD  manifest.json: " in call("check", mirror.url, "pin", made[0], code=1).stdout


@pytest.mark.parametrize("at_url", [False, True])
def test_rollback_names_the_damaged_generation_that_it_passes_over(tmp_path, at_url):
    names = [make_store(tmp_path / "local", 40, 4, 1, seed=seed).manifest.id for seed in range(3)]
    vectors = tmp_path / "local" / "pin" / "generations" / names[1] / "shard-00000" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\x00")
    where = f"file://{tmp_path / 'local'}" if at_url else str(tmp_path / "local")
    printed = call("rollback", where, "pin", "--json").stdout.splitlines()
    assert printed[-3].startswith("passed over: ")
    assert names[1] in printed[-3]
    assert "shard-00000/vectors.npy" in printed[-3]
    told = json.loads(printed[-1])
    assert (told["live"], len(told["passed_over"])) == (names[0], 1)


def test_gc_counts_in_words(tmp_path):
    for seed in range(3):
        make_store(tmp_path, 40, 4, 1, seed=seed)
    stale = tmp_path / "pin" / ".CURRENT.tmp"
    stale.write_text("x")
    os.utime(stale, (0, 0))
    asked = ("gc", str(tmp_path), "pin", "--keep", "1")
    assert "\nto remove: 2 generations, 1 temporary file, 0.0 MiB\n" in call(*asked, "--dry-run").stdout
    assert call("gc", str(tmp_path), "pin", "--keep", "2").stdout.splitlines()[-1].startswith("removed: 1 generation, ")
    assert call("gc", str(tmp_path), "pin", "--keep", "2").stdout.splitlines()[-1] == "removed: nothing"
