"""A space id follows content; a query meets only its own or a listed space."""

import pytest

from retrieval.errors import InvalidArgument, SpaceMismatch
from retrieval.spaces import check_compatible, check_space_id, space_id
from retrieval.types import Metric

BASE = {
    "metric": Metric.COSINE,
    "d": 256,
    "text_normalisation": "nfkc-1",
    "content": {"weights": "a" * 64, "tokenizer": "b" * 64},
}


def test_the_space_id_is_stable() -> None:
    # a stored value: indexes on disk carry it, so a change here makes every one of them foreign
    assert space_id(**BASE) == "sp1-1b337557ebcdca13d10dee7b9e11762e"
    reordered = {**BASE, "content": dict(reversed(list(BASE["content"].items())))}
    assert space_id(**reordered) == space_id(**BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"metric": Metric.L2},
        {"d": 255},
        {"text_normalisation": "nfkc-2"},
        {"content": {"weights": "c" * 64, "tokenizer": "b" * 64}},
        {"content": {"weights": "b" * 64, "tokenizer": "a" * 64}},
        {"content": {"weights": "a" * 64}},
    ],
)
def test_any_change_makes_another_space(change: dict) -> None:
    assert space_id(**{**BASE, **change}) != space_id(**BASE)


def test_a_foreign_space_is_refused_by_both_names() -> None:
    check_compatible("a", "a")
    check_compatible("a", "b", ["b"])
    with pytest.raises(SpaceMismatch, match="query of space a cannot search an index of space b"):
        check_compatible("a", "b", ["c"])


@pytest.mark.parametrize("bad", ["", " x", "x y", "-x", "x" * 129, "x\n"])
def test_space_names_are_checked(bad: str) -> None:
    with pytest.raises(InvalidArgument, match="is not acceptable: it takes 1 to 128"):
        check_space_id(bad)


def test_good_space_names_pass() -> None:
    assert check_space_id("openai:text-3_small.v1") == "openai:text-3_small.v1"
