"""A group commit that fails: every caller of the batch is told, not only the one that wrote for the others."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from retrieval.delta import DeltaLog, Header, Upserts
from retrieval.delta import log as log_module
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
