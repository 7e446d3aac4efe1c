"""The measurement of the encode path, on a tower that answers at once."""

from __future__ import annotations

import pytest
from slow_tower import SlowTower

from bench.encode_path import measure
from retrieval.serving.text.settings import EncodeSettings


@pytest.mark.parametrize("callers", [1, 8])
def test_cold_texts_all_go_through_the_tower_and_warm_ones_do_not(callers: int) -> None:
    tower = SlowTower()
    texts = [f"text {number}" for number in range(40)]
    cold, warm = measure(tower, EncodeSettings(max_batch=4), texts, callers, 3)
    # before, through the path, after; the warm rounds add nothing
    assert sum(map(len, tower.batches)) == 3 * 3 * len(texts)
    assert max(map(len, tower.batches)) == 4
    for row in (cold, warm):
        assert row["callers"] == callers
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["per_s"] > 0
    assert cold["ratio"] == pytest.approx(cold["per_s"] / cold["alone_per_s"], abs=0.01)
    assert 1 <= cold["texts_per_batch"] <= min(4, callers)
