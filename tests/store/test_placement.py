"""Placement is a stated hash: fixed values, equal paths, fair shares."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.store.placement import shard_of


def test_values_that_never_change():
    # computed once from the stated definition with hashlib alone; another value would orphan every stored id
    assert shard_of(["", "a", "pin-1", "ключ"], 1_000).tolist() == [756, 928, 441, 12]
    assert shard_of([0, 1, -1, 2**63 - 1], 1_000).tolist() == [58, 411, 501, 564]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50), st.integers(1, 300))
def test_arrays_and_numbers_agree(ids, shards):
    homes = shard_of(np.array(ids, dtype=np.int64), shards)
    assert homes.tolist() == shard_of(ids, shards).tolist()
    assert all(0 <= home < shards for home in homes)


def test_shares_are_even():
    counts = np.bincount(shard_of(np.arange(40_000), 8), minlength=8)
    assert counts.min() > 4_700
    assert counts.max() < 5_300
