"""A disk that is full wherever a library writes, and a build that changes what queries have to be."""

import errno
import os

import pyarrow.parquet as pq
import pytest

from bench.data import clustered
from index_builders import hnsw, ivfpq
from index_builders.staging import writing
from retrieval.errors import StoreError
from retrieval.params import HnswBuild, IvfpqBuild
from retrieval.types import Metric


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_room_for_mapped_codes_is_taken_before_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device"):
        hnsw.build_shard(clustered(60, 16, seed=1), tmp_path, params=HnswBuild(), metric=Metric.COSINE, seed=0)


@pytest.mark.parametrize(
    ("said", "told"), [("write error: No space left on device", "No space left"), ("Error: rubbish", "rubbish")]
)
def test_a_failure_of_faiss_to_write_is_an_error_of_the_disk(tmp_path, monkeypatch, said, told):
    def fail(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(ivfpq.faiss, "write_index", fail)
    sample = clustered(2000, 16, seed=1)
    params = ivfpq.resolve(IvfpqBuild(nlist=8), rows=2000, shards=1, d=16)
    with pytest.raises(OSError, match=told):
        ivfpq.train(sample, tmp_path, params=params, metric=Metric.COSINE, seed=0)


def test_a_short_write_without_a_number_counts_as_a_full_disk(tmp_path):
    with pytest.raises(StoreError, match=r"12 requested and 7 written; free some space"), writing(tmp_path):
        raise OSError("12 requested and 7 written")


def test_a_change_of_space_or_metric_is_a_warning(write, run):
    source = write(100)
    table = pq.read_table(source)
    pq.write_table(table.replace_schema_metadata(None), source)  # says no space of its own
    assert not run(source, space_id="one").manifest.warnings
    assert not run(source, space_id="one", seed=1).manifest.warnings
    changed = run(source, space_id="two", metric="ip").manifest.warnings
    assert changed[0].startswith("the space changes from one to two")
    assert changed[1].startswith("the metric changes from cosine to ip")
