"""The write-ahead log: what is acknowledged stays, what is torn is cut, what is damaged is told."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.delta import Deletes, DeltaLog, Header, LogReader, Upserts, fold, trim
from retrieval.delta import log as log_module
from retrieval.delta.marker import read_marker
from retrieval.delta.segments import segment_path, segments
from retrieval.errors import DamagedData, SpaceMismatch, StoreError
from retrieval.types import IdType

D = 4
HEADER = Header(space_id="a-space", d=D, id_type=IdType.INT64)


def upserts(*ids: int, value: float = 1.0, **attributes: Any) -> Upserts:
    return Upserts(ids=list(ids), vectors=np.full((len(ids), D), value, np.float32), attributes=[attributes] * len(ids))


def state(home: Path) -> dict[int, float]:
    folded = fold(home)
    return {int(id_): float(row[0]) for id_, row in zip(folded.ids, folded.vectors, strict=True)}


Writes = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(1, 9)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 5), min_size=1, max_size=3), st.just(0)),
        st.tuples(st.just("reopen"), st.just([]), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(writes=Writes)
def test_the_log_is_a_dictionary(tmp_path_factory: pytest.TempPathFactory, writes: list[Any]) -> None:
    home = tmp_path_factory.mktemp("log")
    log, reader = DeltaLog(home, HEADER, segment_bytes=300), LogReader(home)
    expected: dict[int, float] = {}
    followed: dict[int, float] = {}
    position = 0
    for kind, ids, value in writes:
        if kind == "reopen":
            log = DeltaLog(home, HEADER, segment_bytes=300)
            continue
        write = upserts(*ids, value=value) if kind == "upsert" else Deletes(ids=ids)
        assert log.append(write) == (position := position + len(ids))
        for id_ in ids:
            expected[id_] = value
            if kind == "delete":
                del expected[id_]
        for entry in reader.read():
            for number, id_ in enumerate(entry.write.ids):
                if isinstance(entry.write, Upserts):
                    followed[int(id_)] = float(entry.write.vectors[number, 0])
                else:
                    followed.pop(int(id_), None)
        assert reader.position == position
    assert state(home) == expected == followed


def test_a_position_is_where_a_reader_goes_on(tmp_path: Path) -> None:
    log = DeltaLog(tmp_path, HEADER, segment_bytes=200)
    for number in range(10):
        log.append(upserts(number))
    assert len(segments(tmp_path)) > 2
    assert [entry.write.ids for entry in LogReader(tmp_path, after=7).read()] == [[7], [8], [9]]
    assert fold(tmp_path, upto=4).ids == [0, 1, 2, 3]


def test_calls_that_come_together_are_synced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = DeltaLog(tmp_path, HEADER)
    log.append(upserts(0))
    synced, gate = [], threading.Event()
    monkeypatch.setattr(log_module.os, "fdatasync", lambda handle: (gate.wait(5), synced.append(handle)))
    threads = [threading.Thread(target=log.append, args=(upserts(number),)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    while len(log._waiting) < 7:
        pass
    gate.set()
    for thread in threads:
        thread.join()
    assert len(synced) == 2
    assert set(state(tmp_path)) == set(range(9))


def test_two_writers_of_two_processes_take_turns(tmp_path: Path) -> None:
    first, second = DeltaLog(tmp_path, HEADER), DeltaLog(tmp_path, HEADER)
    assert [log.append(upserts(number)) for number, log in enumerate([first, second, second, first])] == [1, 2, 3, 4]
    assert set(state(tmp_path)) == {0, 1, 2, 3}


@pytest.mark.parametrize("cut", [1, 10, 23])
def test_a_torn_end_is_cut_and_the_rest_stays(tmp_path: Path, cut: int) -> None:
    log = DeltaLog(tmp_path, HEADER)
    log.append(upserts(1))
    path = segment_path(tmp_path, 1)
    whole = path.stat().st_size
    log.append(upserts(2))
    record = path.read_bytes()[whole:]
    path.write_bytes(path.read_bytes()[:whole] + record[:-cut])
    (tmp_path / "acknowledged").unlink()  # as after a crash of the machine before anything was told
    assert DeltaLog(tmp_path, HEADER).append(upserts(3)) == 2
    assert set(state(tmp_path)) == {1, 3}


def test_a_whole_record_beyond_the_marker_counts(tmp_path: Path) -> None:
    log = DeltaLog(tmp_path, HEADER)
    log.append(upserts(1))
    before = (tmp_path / "acknowledged").read_bytes()
    log.append(upserts(2))
    (tmp_path / "acknowledged").write_bytes(before)
    assert set(state(tmp_path)) == {1, 2}
    marker = read_marker(tmp_path)
    assert marker is not None
    assert marker.next == 3


def test_every_flipped_bit_of_an_acknowledged_record_is_found(tmp_path: Path) -> None:
    log = DeltaLog(tmp_path, HEADER)
    for number in range(3):
        log.append(upserts(number, name="x"))
    path = segment_path(tmp_path, 1)
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(DamagedData, match=r"is damaged at byte [\d,]+"):
            fold(tmp_path)
    path.write_bytes(whole[:-3])
    with pytest.raises(DamagedData, match="were acknowledged: restore it"):
        fold(tmp_path)


def test_a_segment_that_is_gone_is_told(tmp_path: Path) -> None:
    log = DeltaLog(tmp_path, HEADER, segment_bytes=1)
    for number in range(4):
        log.append(upserts(number))
    segment_path(tmp_path, segments(tmp_path)[1]).unlink()
    with pytest.raises(DamagedData, match=r"segment-.* is missing: restore it"):
        fold(tmp_path)


@pytest.mark.parametrize(("name", "number"), [("write", errno.ENOSPC), ("write", errno.EIO)])
def test_a_full_disk_costs_the_call_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    log = DeltaLog(tmp_path, HEADER)
    log.append(upserts(1))
    size = segment_path(tmp_path, 1).stat().st_size
    real = os.write

    def half(handle: int, data: bytes) -> int:
        real(handle, data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "write", half)
        with pytest.raises(StoreError, match="cannot write the delta's log in"):
            log.append(upserts(2))
    assert segment_path(tmp_path, 1).stat().st_size == size
    assert log.append(upserts(3)) == 2
    assert set(state(tmp_path)) == {1, 3}


def test_a_failed_sync_is_not_trusted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = DeltaLog(tmp_path, HEADER)
    log.append(upserts(1))

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "fdatasync", fail)
        with pytest.raises(StoreError, match="cannot write the delta's log"):
            log.append(upserts(2))
    with pytest.raises(StoreError, match=r"could not be synced \(Input/output error\): restart"):
        log.append(upserts(3))
    assert set(state(tmp_path)) == {1}


def test_another_space_begins_a_segment_and_does_not_fold_with_this_one(tmp_path: Path) -> None:
    DeltaLog(tmp_path, HEADER).append(upserts(1))
    other = Header(space_id="b-space", d=D, id_type=IdType.INT64)
    DeltaLog(tmp_path, other).append(upserts(2))
    assert len(segments(tmp_path)) == 2
    with pytest.raises(SpaceMismatch, match=r"several spaces, a-space \(4 dimensions\) and b-space"):
        fold(tmp_path)
    DeltaLog(tmp_path, other).append(upserts(1))
    assert fold(tmp_path).header == other


@pytest.mark.parametrize("written", [0, 1, 3])
def test_numbers_that_a_generation_has_folded_are_not_given_again(tmp_path: Path, written: int) -> None:
    log = DeltaLog(tmp_path, HEADER)
    for number in range(written):
        log.append(upserts(number))
    log = DeltaLog(tmp_path, HEADER, after=10)  # the machine lost the others, or somebody the whole log
    assert [log.append(upserts(number)) for number in (20, 21)] == [11, 12]
    assert [entry.write.ids for entry in LogReader(tmp_path, after=10).read()] == [[20], [21]]
    if written:
        with pytest.raises(DamagedData, match=r"segment-.* is missing: restore it"):
            list(LogReader(tmp_path).read())


def test_a_gap_behind_a_segment_without_records_is_told(tmp_path: Path) -> None:
    DeltaLog(tmp_path, HEADER).append(upserts(1))
    log = DeltaLog(tmp_path, HEADER, segment_bytes=1)
    log._new_segment(2)
    DeltaLog(tmp_path, HEADER, after=10).append(upserts(2))
    with pytest.raises(DamagedData, match=r"segment-.* is missing: restore it"):
        list(LogReader(tmp_path).read())


def test_a_reader_whose_caller_fails_reads_the_same_again(tmp_path: Path) -> None:
    log, reader = DeltaLog(tmp_path, HEADER, segment_bytes=1), LogReader(tmp_path)
    for number in range(3):
        log.append(upserts(number))
    seen = []
    for failing in (True, False):
        try:
            for entry in reader.read():
                if failing and entry.first == 2:
                    raise MemoryError
                seen.append(entry.first)
        except MemoryError:
            assert reader.position == 1
    assert (seen, reader.position) == ([1, 2, 3], 3)


def test_what_every_kept_generation_has_is_trimmed(tmp_path: Path) -> None:
    log = DeltaLog(tmp_path, HEADER, segment_bytes=1)
    for number in range(5):
        log.append(upserts(number))
    assert len(trim(tmp_path, 3)) == 3
    assert fold(tmp_path).ids == [3, 4]
    assert [entry.first for entry in LogReader(tmp_path, after=3).read()] == [4, 5]
    reader = LogReader(tmp_path, after=1)
    assert [entry.first for entry in reader.read()] == [4, 5]
    assert reader.missing == 2
    assert trim(tmp_path / "nothing", 3) == []
