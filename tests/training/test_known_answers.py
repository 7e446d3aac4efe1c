"""Which candidates are no negatives of a query, against a plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.training.sampler import KnownAnswers

NUMBERS = st.integers(0, 6)


@given(
    pairs=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30),
    queries=st.lists(NUMBERS, min_size=1, max_size=8),
    candidates=st.lists(NUMBERS, max_size=8),
)
def test_mask_holds_exactly_the_true_pairs(
    pairs: list[tuple[int, int]], queries: list[int], candidates: list[int]
) -> None:
    known = KnownAnswers(np.array([q for q, _ in pairs]), np.array([a for _, a in pairs]))
    mask = known.mask(np.array(queries, np.int64), np.array(candidates, np.int64))
    assert mask.shape == (len(queries), len(candidates))
    assert mask.tolist() == [[(q, c) in set(pairs) for c in candidates] for q in queries]
