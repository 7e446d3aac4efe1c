"""kill -9 of a server that swaps, searches and takes writes: the next one serves what is live and all that was told."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from server_lives import Servers

from retrieval import client as rc
from retrieval.store import Store


def files(store: Path) -> set[str]:
    """All but the log of writes."""
    return {str(path.relative_to(store)) for path in (store / "pin").rglob("*") if "delta" not in path.parts}


@pytest.mark.parametrize("kills", [24, pytest.param(250, marks=pytest.mark.long)])
def test_a_killed_server_loses_nothing_and_the_next_serves_what_is_live(tmp_path: Path, kills: int) -> None:
    servers = Servers(tmp_path)
    try:
        before = files(servers.store)
        whole_s = servers.swap_s()
        stages: Counter[str] = Counter()
        for number in range(kills):
            swap = number % 2 == 0
            stage = servers.kill(float(servers.rng.uniform(0, 1.2 * whole_s)), swap=swap)
            stages[f"swap: {stage}" if swap else "serve"] += 1
            store = Store(servers.store)
            store.open("pin", store.current("pin"))
            assert files(servers.store) == before
        child, address = servers.start()
        with rc.RetrievalClient(address) as client:
            servers.check(client)
        os.kill(child, signal.SIGKILL)
    finally:
        servers.close()
    assert servers.writes > kills
    print(f"{kills} kills within {whole_s:.2f} s: {dict(stages)}; {servers.writes} writes acknowledged")
