"""The count-min sketch: never too low, seldom much too high, and the same after it is saved."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import DamagedData, InvalidParams
from retrieval.training.sketch import CountMinSketch


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 30), max_size=50), max_size=6),
    st.integers(16, 64),
    st.integers(1, 4),
)
def test_it_never_underestimates(chunks: list[list[int]], width: int, depth: int) -> None:
    sketch, truth = CountMinSketch(width=width, depth=depth), Counter[int]()
    for chunk in chunks:
        sketch.add(np.array(chunk, dtype=np.uint64))
        truth.update(chunk)
    keys = np.array([*truth, 12345], dtype=np.uint64)
    estimates = sketch.estimate(keys)
    assert (estimates >= [truth[int(key)] for key in keys]).all()
    assert (estimates <= sketch.total).all()
    assert sketch.total == sum(truth.values())


def test_it_is_exact_where_there_is_room_and_close_where_there_is_little() -> None:
    keys = np.random.default_rng(0).zipf(1.3, 20_000).astype(np.uint64)
    distinct, counts = np.unique(keys, return_counts=True)
    roomy, tight = CountMinSketch(width=1 << 20, depth=4), CountMinSketch(width=1 << 10, depth=4)
    roomy.add(keys)
    tight.add(keys)
    assert np.array_equal(roomy.estimate(distinct), counts)
    excess = tight.estimate(distinct) - counts
    assert np.mean(excess > 2 * len(keys) / (1 << 10)) <= 2**-4  # the bound of the paper, with its probability


def test_log_probability_counts_an_unseen_key_as_seen_once() -> None:
    sketch = CountMinSketch(width=1 << 16)
    sketch.add(np.array([7, 7, 7, 8], dtype=np.uint64))
    found = sketch.log_probability(np.array([7, 8, 9], dtype=np.uint64))
    assert np.exp(found) == pytest.approx([0.75, 0.25, 0.25])


def test_a_saved_sketch_goes_on_as_it_was() -> None:
    sketch, other = CountMinSketch(width=64), CountMinSketch(width=64)
    sketch.add(np.arange(100, dtype=np.uint64))
    other.load(sketch.state())
    for each in (sketch, other):
        each.add(np.arange(50, dtype=np.uint64))
    assert np.array_equal(sketch.state()["counts"], other.state()["counts"])
    assert sketch.total == other.total == 150
    with pytest.raises(DamagedData, match=r"the saved sketch is \[4, 64\], this one \[4, 128\]"):
        CountMinSketch(width=128).load(sketch.state())


@pytest.mark.parametrize(("width", "depth", "said"), [(8, 4, "sketch width = 8"), (64, 0, "sketch depth = 0")])
def test_bad_sizes_are_refused(width: int, depth: int, said: str) -> None:
    with pytest.raises(InvalidParams, match=said):
        CountMinSketch(width=width, depth=depth)
