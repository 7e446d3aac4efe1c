"""What a build will take, told before: the shape of a source, the table of bytes, limits, refusals, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data import clustered
from index_builders import tables
from index_builders.calibrate import Speeds, calibrate
from index_builders.estimate import Estimate, check_limits, estimate, memory_stages, spell_seconds
from index_builders.footprint import TABLE, Part, bytes_per_row, total
from index_builders.limits import Limit, Limits, find_limits, free_memory_limit, parse_size, spell
from index_builders.settings import make_settings
from index_builders.source_shape import SourceShape, read_shape
from retrieval.errors import FailedPrecondition, InvalidData, InvalidParams
from retrieval.types import IndexKind

SPEEDS = Speeds(byte_s=2e-9, multiply_s=3e-11, score_s=5e-9, graph_row_s=1e-4)
PARAMS = {
    IndexKind.FLAT: {"vectors": "float16"},
    IndexKind.HNSW: {"vectors": "float16", "m": 16, "ef_construction": 200},
    IndexKind.IVFPQ: {"vectors": "float16", "nlist": 64, "pq_dims": 2, "pq_bits": 4, "train_rows": 262_144},
}


def part(kind: IndexKind, rows: int = 10_000, d: int = 64, **values: object) -> Part:
    found = {"rows": rows, "all_rows": rows, "d": d, "row_bytes": 20.0, "queries": 200, "params": PARAMS[kind]}
    return Part(**{**found, **values})  # type: ignore[arg-type]


def rows_of(n: int, d: int) -> np.ndarray:
    return clustered(n, d, seed=3, clusters=20, intrinsic=8)


def write_source(path: Path, n: int = 500, d: int = 16, *, fixed: bool = True, groups: int | None = None) -> Path:
    values = pa.array(rows_of(n, d).ravel())
    lists = (
        pa.FixedSizeListArray.from_arrays(values, d)
        if fixed
        else pa.ListArray.from_arrays(np.arange(0, n * d + 1, d, dtype=np.int32), values)
    )
    ids = pa.array([f"e{i}" for i in range(n)], pa.string())
    table = pa.table({"id": ids, "embedding": lists, "price": np.arange(n)})
    pq.write_table(table.replace_schema_metadata({"space_id": "sp-test"}), path, row_group_size=groups)
    return path


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("groups", [None, 64])
def test_a_parquet_source_is_measured_without_reading_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: bool, groups: int | None
) -> None:
    source = write_source(tmp_path / "s.parquet", fixed=fixed, groups=groups)

    def refuse(*_: object) -> None:
        raise AssertionError("rows were read")

    monkeypatch.setattr(tables, "read_batches", refuse)
    shape = read_shape(source, None)
    assert (shape.rows, shape.d, shape.ids_are_text) == (500, 16, True)
    assert 12 <= shape.row_bytes <= 40, "ids of about 4 letters with their offsets, and 8 bytes of price"


def test_npy_and_arrow_sources_have_the_same_shape(tmp_path: Path) -> None:
    table = pq.read_table(write_source(tmp_path / "s.parquet"))
    with pa.ipc.new_file(str(tmp_path / "s.arrow"), table.schema) as sink:
        sink.write_table(table)
    np.save(tmp_path / "x.npy", rows_of(500, 16))
    np.save(tmp_path / "ids.npy", np.arange(500))
    for found in (
        read_shape(tmp_path / "s.arrow", None),
        read_shape(tmp_path / "x.npy", tmp_path / "ids.npy"),
    ):
        assert (found.rows, found.d) == (500, 16)
    assert read_shape(tmp_path / "x.npy", tmp_path / "ids.npy").row_bytes == 8


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: write_source(p / "s.parquet", 0, 16), r"s\.parquet has no rows: there is nothing to build"),
        (lambda p: p / "missing.parquet", r"missing\.parquet does not exist"),
        (lambda p: np.save(p / "x.npy", np.zeros((3, 4), np.int64)) or p / "x.npy", r"holds vectors only: give their"),
    ],
)
def test_a_source_that_cannot_be_built_is_refused(tmp_path: Path, make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidData, match=sentence):
        read_shape(make(tmp_path), None)


@given(
    kind=st.sampled_from(list(IndexKind)),
    rows=st.integers(100, 5_000_000),
    d=st.integers(1, 32).map(lambda x: 8 * x),
    more=st.floats(1.0, 4.0),
)
def test_more_rows_never_take_less(kind: IndexKind, rows: int, d: int, more: float) -> None:
    larger = int(rows * more)
    for stage in {term.stage for term in TABLE}:
        assert total(stage, kind, part(kind, rows, d)) <= total(stage, kind, part(kind, larger, d)) + 1
    few, many = (memory_stages(kind, part(kind, rows, d), active, alone=False) for active in (1, 2))
    assert few["add"] < many["add"]
    assert few["read"] == many["read"]


@given(kind=st.sampled_from(list(IndexKind)), rows=st.integers(50_000, 5_000_000), shards=st.integers(2, 16))
def test_more_shards_never_take_more_memory_with_one_worker(kind: IndexKind, rows: int, shards: int) -> None:
    whole = memory_stages(kind, part(kind, rows), 1, alone=False)
    split = memory_stages(kind, part(kind, -(-rows // shards), all_rows=rows), 1, alone=False)
    assert all(split[stage] <= whole[stage] for stage in whole)


def test_bytes_per_row_are_those_of_the_files() -> None:
    assert bytes_per_row(IndexKind.FLAT, PARAMS[IndexKind.FLAT], 1_000, 128) == 256
    assert bytes_per_row(IndexKind.FLAT, {"vectors": "float32"}, 1_000, 128) == 512
    # 256 of vectors, 32 of codes, 8 of row numbers, and 64 centroids of 512 bytes over a million rows
    assert bytes_per_row(IndexKind.IVFPQ, PARAMS[IndexKind.IVFPQ], 1_000_000, 128) == pytest.approx(296, abs=0.1)
    # 256 of vectors, 128 of links, 136 of codes with scale and bias, about 5 of upper layers
    assert bytes_per_row(IndexKind.HNSW, PARAMS[IndexKind.HNSW], 1_000, 128) == pytest.approx(525, abs=1)


def estimated(**values: object) -> Estimate:
    found = {
        "rows": 1_000,
        "d": 16,
        "kind": IndexKind.HNSW,
        "params": {},
        "shards": 4,
        "workers": 2,
        "seconds": 10.0,
        "seconds_stages": {"add": 10.0},
        "memory_bytes": 2 * 10**9,
        "memory_stages": {"read": 10**8, "train": 10**8, "add": 2 * 10**9, "verify": 10**8},
        "disk_bytes": 5 * 10**9,
        "generation_bytes": 10**9,
    }
    return Estimate(**{**found, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "limits", "sentence"),
    [
        (
            {},
            Limits(memory=Limit(size_bytes=10**9, source="--max-memory"), disk=None),
            r"2 GB of memory at its peak, more than the 1 GB of --max-memory: use fewer --workers, more --shards, or",
        ),
        (
            {"workers": 1},
            Limits(memory=Limit(size_bytes=10**9, source="free memory of the machine"), disk=None),
            r"the 1 GB of free memory of the machine: use more --shards, or another --kind",
        ),
        (
            {"memory_stages": {"train": 2 * 10**9}},
            Limits(memory=Limit(size_bytes=10**9, source="--max-memory"), disk=None),
            r"use a smaller --train-rows, or another --kind",
        ),
        (
            {},
            Limits(memory=None, disk=Limit(size_bytes=10**9, source="free disk at /data")),
            r"5 GB of disk at its peak, more than the 1 GB of free disk at /data: free some space",
        ),
    ],
)
def test_a_build_that_does_not_fit_is_refused(values: dict[str, object], limits: Limits, sentence: str) -> None:
    with pytest.raises(FailedPrecondition, match=sentence):
        check_limits(estimated(**values), limits)


def test_a_build_that_fits_exactly_is_not_refused() -> None:
    fits = Limits(memory=Limit(size_bytes=2 * 10**9, source=""), disk=Limit(size_bytes=5 * 10**9, source=""))
    check_limits(estimated(), fits)
    check_limits(estimated(), Limits(memory=None, disk=None))


def fake_machine(
    root: Path, groups: str, files: dict[str, int | str], available_kib: int | None = None
) -> tuple[Path, Path]:
    proc, cgroups = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(groups)
    if available_kib is not None:
        (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available_kib} kB\n")
    for name, content in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(str(content))
    return proc, cgroups


@pytest.mark.parametrize(
    ("groups", "files", "available_kib", "size", "source"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/b/memory.current": 5}, 4, 4_096, "free memory"),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": 1_000,
                "a/b/memory.current": 400,
                "a/b/memory.stat": "anon 1\ninactive_file 300\n",
                "a/memory.max": 2_000,
                "a/memory.current": 1_300,
            },
            4,
            700,  # the group above is the tighter one: 2,000 - 1,300, the group itself leaves 900
            "version 2",
        ),
        # in a container its own group is mounted at the root
        ("0::/deep/down\n", {"memory.max": 3_000, "memory.current": 500}, 4, 2_500, "version 2"),
        (
            "4:memory:/x\n0::/\n",
            {
                "memory/x/memory.limit_in_bytes": 900,
                "memory/x/memory.usage_in_bytes": 500,
                "memory/x/memory.stat": "total_inactive_file 100\n",
            },
            4,
            500,
            "version 1",
        ),
        (
            "4:memory:/x\n",
            {"memory/x/memory.limit_in_bytes": 9_223_372_036_854_771_712, "memory/x/memory.usage_in_bytes": 1},
            2,
            2_048,
            "free memory",
        ),
        ("0::/a\n", {"a/memory.max": 100, "a/memory.current": 400}, 4, 0, "version 2"),
    ],
)
def test_the_control_group_limits_memory(
    tmp_path: Path, groups: str, files: dict[str, int | str], available_kib: int, size: int, source: str
) -> None:
    found = free_memory_limit(*fake_machine(tmp_path, groups, files, available_kib))
    assert found is not None
    assert found.size_bytes == size
    assert source in found.source


def test_nothing_known_is_no_limit(tmp_path: Path) -> None:
    assert free_memory_limit(tmp_path / "none", tmp_path / "neither") is None


def test_the_tighter_of_allowed_and_free_counts(tmp_path: Path) -> None:
    tight = find_limits(tmp_path / "not" / "made", max_memory=1, max_disk=1)
    assert tight.memory == Limit(size_bytes=1, source="--max-memory")
    assert tight.disk == Limit(size_bytes=1, source="--max-disk")
    loose = find_limits(tmp_path, max_disk=1 << 70)
    assert loose.disk is not None
    assert loose.disk.source == f"free disk at {tmp_path}"


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500 * 10**6), ("12G", 12 * 10**9), ("8GiB", 8 * 2**30), ("1.5k", 1_500), ("7", 7)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text, "--max-memory") == size


@pytest.mark.parametrize("text", ["", "G", "-3G", "0", "3X", "12 parsecs", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams, match=r"--max-disk = '.*' is not a size: give a number with K, M, G, T or"):
        parse_size(text, "--max-disk")


def test_figures_in_words() -> None:
    assert [spell(n) for n in (1.5e3, 2.34e6, 7.891e9, 1.2e13)] == ["1.5 kB", "2.34 MB", "7.89 GB", "12 TB"]
    assert [spell_seconds(s) for s in (0.2, 42, 200, 7_500)] == ["1 s", "42 s", "3 min 20 s", "2 h 5 min"]


def test_seconds_are_the_work_by_the_speeds(tmp_path: Path) -> None:
    shape = SourceShape(rows=1_000_000, d=64, row_bytes=20, ids_are_text=True)
    found = {
        kind: estimate(
            make_settings(source=tmp_path, store=tmp_path, entity_type="pin", kind=kind, shards=4, workers=2),
            speeds=SPEEDS,
            shape=shape,
        )
        for kind in IndexKind
    }
    # two rounds of 250,000 insertions of 1e-4 s at 2,000 rows, growing as rows ** 0.22, two at once
    assert found[IndexKind.HNSW].seconds_stages["add"] == pytest.approx(2 * 25 * 125**0.22 / 1.22 * 1.35, rel=0.02)
    assert found[IndexKind.FLAT].seconds < found[IndexKind.IVFPQ].seconds < found[IndexKind.HNSW].seconds
    assert all(each.seconds == pytest.approx(sum(each.seconds_stages.values()), abs=0.1) for each in found.values())
    assert "4 hnsw shards in 2 shard processes" in found[IndexKind.HNSW].sentence()


def test_shards_that_are_linked_take_no_building(tmp_path: Path) -> None:
    shape = SourceShape(rows=1_000_000, d=64, row_bytes=20, ids_are_text=True)
    settings = make_settings(source=tmp_path, store=tmp_path, entity_type="pin", kind="hnsw", shards=8, workers=2)
    found = [estimate(settings, changed=changed, speeds=SPEEDS, shape=shape) for changed in (0, 1, 8, None)]
    seconds = [each.seconds_stages["add"] for each in found]
    assert seconds[0] == 0 < seconds[1] < seconds[2] == seconds[3]
    assert found[1].memory_stages["add"] < found[2].memory_stages["add"]
    assert [each.generation_bytes for each in found] == [found[0].generation_bytes] * 4


def test_calibration_is_a_moment() -> None:
    speeds = calibrate(32, graph={"m": 8, "ef_construction": 40}, seed=1)
    assert 0 < speeds.byte_s < 1e-6
    assert 0 < speeds.multiply_s < 1e-7
    assert speeds.graph_row_s is not None
    assert 1e-7 < speeds.graph_row_s < 1e-2
    assert calibrate(8).graph_row_s is None


def test_more_shards_than_rows_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    source = write_source(tmp_path / "s.parquet", 5)
    settings = make_settings(source=source, store=tmp_path, entity_type="pin", shards=9)
    with pytest.raises(InvalidData, match=r"5 rows cannot fill 9 shards: use far fewer --shards"):
        estimate(settings)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "retrieval.cli", "build", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_the_command_tells_and_stops_or_refuses(tmp_path: Path) -> None:
    source = write_source(tmp_path / "s.parquet")
    common = (source, "--store", tmp_path / "store", "--entity-type", "pin", "--workers", 0)
    told = command(*common, "--estimate", "--json")
    assert told.returncode == 0, told.stderr
    assert "estimate: 500 rows of 16 dimensions, 1 flat shards in this process" in told.stdout
    assert json.loads(told.stdout.splitlines()[-1])["estimate"]["rows"] == 500
    refused = command(*common, "--max-memory", "1M")
    assert refused.returncode == 1
    assert "more than the 1 MB of --max-memory: use more --shards" in refused.stderr
    assert not (tmp_path / "store").exists(), "nothing was begun"
