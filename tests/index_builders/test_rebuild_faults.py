"""Rebuild jobs where the disk is full or the store elsewhere: one sentence, and what is live stays or moves whole."""

import errno
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rebuild_jobs import D, job_file, quick, run, vectors, write  # noqa: F401
from tiny_tower import make_tiny_checkpoint

from index_builders.rebuild import Outcome, read_job, rebuild
from retrieval.errors import RetrievalError, StoreError
from retrieval.store import Mirror, Store


def refusing(*arguments, **named):
    raise StoreError("no pointer today")


class Full(io.BytesIO):
    """A file on a full disk."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_full_at_the_first_row_read_is_told_in_a_sentence(tmp_path, monkeypatch):
    x = vectors()
    write(tmp_path, x)
    first = run(tmp_path)
    x[3] = -x[3]
    write(tmp_path, x)
    real = Path.open

    def opened(path, mode="r", *args, **kwargs):
        spooled = mode == "wb" and path.name.startswith("shard-") and path.suffix == ".npy"
        return Full() if spooled else real(path, mode, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(StoreError, match=r"cannot write .*read: No space left on device; free some space there"):
            run(tmp_path)
    assert Store(tmp_path / "store").current("pin") == first.generation
    assert run(tmp_path).outcome is Outcome.PUBLISHED


def test_a_disk_that_fills_up_at_any_rename_leaves_a_whole_generation_live(tmp_path, monkeypatch):
    x = vectors()
    write(tmp_path, x)
    first = run(tmp_path)
    x[3] = -x[3]
    write(tmp_path, x)
    store = Store(tmp_path / "store")
    seen = failed = 0

    def failing(real, at):
        def renamed(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return renamed

    for at in (2, 5, 9, 12, 15, 18, 21):
        seen = 0
        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", failing(os.rename, at))
            patched.setattr(os, "replace", failing(os.replace, at))
            try:
                run(tmp_path)
            except RetrievalError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
                failed += 1
        live = store.open("pin", store.current("pin"))
        assert live.manifest.id == first.generation or live.manifest.parent == first.generation
    assert failed >= 3
    last = run(tmp_path)
    assert store.current("pin") == last.generation != first.generation
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_embeddings_of_another_space_are_made_anew(tmp_path):
    make_tiny_checkpoint(tmp_path / "checkpoint", d=D)
    x = np.random.default_rng(0).standard_normal((120, D), dtype=np.float32)
    write(tmp_path, x, space="sp-old", title=pa.array([f"thing number {i}" for i in range(len(x))]))
    report = run(tmp_path, top='checkpoint = "checkpoint"\nthreads = 1', gate="max_same_vectors = 1.0")
    store = Store(tmp_path / "store")
    assert report.embedded == len(x)
    assert store.manifest("pin", report.generation).space_id != "sp-old"


@pytest.mark.long  # starts a server
def test_a_store_at_a_url_gets_the_whole_generation_and_then_the_pointer(tmp_path, monkeypatch):
    pytest.importorskip("moto", reason="moto serves the S3 protocol")
    from object_storage import serving

    with serving() as storage:
        for name, value in {
            "AWS_ENDPOINT_URL": storage.endpoint,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        url = storage.new_url()
        path = job_file(tmp_path, top='work = "work"')
        path.write_text(path.read_text().replace('store = "store"', f'store = "{url}"'))
        x = vectors()
        write(tmp_path, x)
        first = rebuild(read_job(path))
        there = Mirror(url, tmp_path / "server")
        assert there.current("pin") == first.generation
        x[3] = -x[3]
        write(tmp_path, x)
        second = rebuild(read_job(path))
        assert (second.built, second.reused) == (1, 3)
        assert second.parent == first.generation
        assert there.follow("pin") == second.generation
        assert there.store.open("pin", second.generation).manifest.rows == len(x)
        assert rebuild(read_job(path)).outcome is Outcome.UNCHANGED
        x[4] = -x[4]
        write(tmp_path, x)
        with monkeypatch.context() as patched:
            patched.setattr(Mirror, "move_pointer", refusing)
            with pytest.raises(StoreError, match="no pointer today"):
                rebuild(read_job(path))
        shutil.rmtree(tmp_path / "work")  # that of a machine that went away: its generation is there, whole
        third = rebuild(read_job(path))
        assert third.generation[:6] == "000004"
        assert there.current("pin") == third.generation
