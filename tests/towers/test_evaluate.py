"""nDCG and recall by hand-computed examples, their conventions, and the interval."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidData, InvalidParams
from retrieval.training.evaluate import judgments_by_query, ndcg_at_k, recall_at_k, summarise

JUDGED = {"a": 3, "b": 1, "c": 0, "d": 2}


def test_ndcg_by_hand() -> None:
    found = ndcg_at_k([["b", "x", "a"]], [JUDGED], 3)
    gained = 1 / 1 + 0 + 7 / 2
    ideal = 7 / 1 + 3 / math.log2(3) + 1 / 2
    assert found[0] == pytest.approx(gained / ideal)
    assert ndcg_at_k([["a", "d", "b", "c"]], [JUDGED], 10)[0] == pytest.approx(1)
    assert ndcg_at_k([["a"]], [JUDGED], 1)[0] == pytest.approx(1)
    assert ndcg_at_k([[]], [JUDGED], 5)[0] == 0


def test_recall_by_hand() -> None:
    assert recall_at_k([["a", "x", "c"]], [JUDGED], 3)[0] == pytest.approx(1 / 3)
    assert recall_at_k([["a", "x", "c"]], [JUDGED], 3, relevant_from=2)[0] == pytest.approx(1 / 2)
    assert recall_at_k([["a", "b"]], [JUDGED], 2)[0] == 1  # three are relevant, two can be found


def test_a_query_without_relevant_entities_counts_nowhere() -> None:
    ranked, ratings = [["a"], ["c"], ["x"]], [JUDGED, {"c": 0}, {}]
    for values in (ndcg_at_k(ranked, ratings, 1), recall_at_k(ranked, ratings, 1)):
        assert np.isnan(values).tolist() == [False, True, True]
        assert (summarise(values).mean, summarise(values).queries) == (1, 1)
    with pytest.raises(InvalidData, match=r"none of 2 queries has a relevant judgement"):
        summarise(ndcg_at_k(ranked[1:], ratings[1:], 1))


@given(st.permutations("abcdefgh"), st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(1, 10))
def test_the_ideal_order_is_never_beaten(order: list[str], ratings: list[int], k: int) -> None:
    judged = dict(zip("abcdefgh", ratings, strict=True))
    best = sorted(judged, key=lambda entity: -judged[entity])
    ndcg, ideal = ndcg_at_k([order], [judged], k)[0], ndcg_at_k([best], [judged], k)[0]
    if any(ratings):
        assert ideal == pytest.approx(1)
        assert -1e-12 <= ndcg <= ideal + 1e-12
        assert recall_at_k([order], [judged], 8)[0] == 1
    else:
        assert math.isnan(ndcg)


def test_the_interval_holds_the_mean_and_is_repeatable() -> None:
    values = np.random.default_rng(1).random(85)
    values[3] = np.nan
    found = summarise(values)
    assert found.low < found.mean < found.high
    assert found == summarise(values)
    assert found.queries == 84
    width = 2 * 1.96 * np.nanstd(values) / math.sqrt(84)
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_bad_input() -> None:
    with pytest.raises(InvalidParams, match=r"k = 0 is not acceptable"):
        ndcg_at_k([["a"]], [JUDGED], 0)
    with pytest.raises(InvalidData, match=r"2 rankings for 1 judged queries"):
        recall_at_k([["a"], ["b"]], [JUDGED], 1)
    with pytest.raises(InvalidData, match=r"ranking 0 repeats an entity among its first 2"):
        ndcg_at_k([["a", "a"]], [JUDGED], 2)
    with pytest.raises(InvalidData, match=r"rating -1 of entity 'a' for 'q' is below 0"):
        judgments_by_query(["q"], ["a"], [-1])
    assert judgments_by_query(["q", "r", "q"], ["a", "a", "b"], [0, 1, 2]) == {"q": {"a": 0, "b": 2}, "r": {"a": 1}}
