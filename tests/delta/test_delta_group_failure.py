"""A group commit that fails: every caller of the batch is told, not only the one that wrote for the others."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from retrieval.delta import DeltaLog, Header, Upserts, fold
from retrieval.delta import log as log_module
from retrieval.delta.segments import segment_path
from retrieval.errors import DamagedData
from retrieval.types import IdType

HEADER = Header(space_id="a-space", d=4, id_type=IdType.INT64)


def upsert(number: int) -> Upserts:
    return Upserts(ids=[number], vectors=np.ones((1, 4), np.float32), attributes=[{}])


def test_nobody_of_a_batch_is_told_that_a_failed_write_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DeltaLog(tmp_path, HEADER)
    log.append(upserts := upsert(0))
    acknowledged, refused = list[int](), list[Exception]()

    def call() -> None:
        try:
            acknowledged.append(log.append(upserts))
        except DamagedData as error:
            refused.append(error)

    def damaged(home: Path) -> list[int]:
        raise DamagedData(f"{home} is damaged at byte 0")

    monkeypatch.setattr(log_module, "segments", damaged)
    threads = [threading.Thread(target=call) for _ in range(6)]
    with log._writing:  # so that all but the first go together
        for thread in threads:
            thread.start()
        while len(log._waiting) < 6:
            pass
    for thread in threads:
        thread.join()
    assert (acknowledged, len(refused)) == ([], 6)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("lost", ["frame", "payload"])
def test_a_batch_may_be_torn_anywhere_and_an_older_record_may_not(tmp_path: Path, together: bool, lost: str) -> None:
    """A machine that loses power may have written any pages of the last batch, its later records among them."""
    log = DeltaLog(tmp_path, HEADER)
    log.append(upsert(0))
    path, marker = segment_path(tmp_path, 1), (tmp_path / "acknowledged").read_bytes()
    begins = path.stat().st_size
    wide = Upserts(ids=[1], vectors=np.ones((1, 4), np.float32), attributes=[{"text": "x" * 9_000}])
    if together:
        threads = [threading.Thread(target=log.append, args=(wide,)) for _ in range(3)]
        with log._writing:
            for thread in threads:
                thread.start()
            while len(log._waiting) < 3:
                pass
        for thread in threads:
            thread.join()
    else:
        for _ in range(3):
            log.append(wide)
    data = bytearray(path.read_bytes())
    at = begins if lost == "frame" else begins + 4_096
    data[at : at + 4_096] = bytes(4_096)
    path.write_bytes(data)
    (tmp_path / "acknowledged").write_bytes(marker)  # it is not synced
    if together:
        assert DeltaLog(tmp_path, HEADER).append(upsert(7)) == 2
        assert fold(tmp_path).ids == [0, 7]
    else:
        with pytest.raises(DamagedData, match=f"is damaged at byte {begins:,}"):
            DeltaLog(tmp_path, HEADER)
