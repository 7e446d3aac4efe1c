"""The one normalisation is idempotent, query limits hold, and entity text is composed as declared."""

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidData, InvalidQuery
from retrieval.towers.text import MAX_TEXT_CHARACTERS, entity_text, normalise_text, query_texts

TRICKY = st.text(
    st.sampled_from(
        "ab \t\n\x00\x1f\x85\u00a0\u00ad\u00a8\u0301\u0308\u200b\u200c\u200d\u2028\ufb01\ufeff\u3000"
        "\u00c5\u212b\ud55c\u1100\u1161\ud800\U0001f600"
    )
)


@given(st.one_of(st.text(), TRICKY))
def test_normalisation_is_idempotent_and_leaves_nothing_invisible(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert once == once.strip()
    assert "  " not in once
    assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in once)
    once.encode()  # a lone surrogate would fail here


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        ("  gaming\tlaptop\n", "gaming laptop"),
        ("ﬁne ① ｗｉｄｅ", "fine 1 wide"),
        ("cafe\u0301", "café"),
        ("soft\u00adhyphen\u200b\ufeff", "softhyphen"),
        ("a\x00\u0301", "á"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # the joiner is part of the word
        ("\u200d \u200c", ""),
        ("\ud800", ""),
    ],
)
def test_normalisation_by_example(raw: str, normalised: str) -> None:
    assert normalise_text(raw) == normalised


def test_query_limits() -> None:
    assert query_texts(["x" * MAX_TEXT_CHARACTERS, " a "]) == ["x" * MAX_TEXT_CHARACTERS, "a"]
    with pytest.raises(InvalidQuery, match=r"query text has 10,000 characters, the limit is 9,999: shorten it"):
        query_texts(["x" * 10_000])
    with pytest.raises(InvalidQuery, match=r"query text 1 of 2 is empty"):
        query_texts(["a", " \n\u200b"])
    with pytest.raises(InvalidQuery, match=r"query text is of type NoneType"):
        query_texts([None])  # type: ignore[list-item]
    with pytest.raises(InvalidQuery, match=r"this is one text: wrap it in a list"):
        query_texts("laptop")


def test_entity_text_joins_declared_columns_in_order() -> None:
    table = pa.table({
        "description": ["A  long\nstory", None, "Same", ""],
        "title": pa.array(["Sea", "Hill", "Same", None]).dictionary_encode(),
        "tags": pa.array([["boat", "storm"], None, [], [None]], pa.list_(pa.string())),
        "price": [1, 2, 3, 4],
    })  # fmt: skip
    assert entity_text(table) == ["Sea. boat, storm. A long story", "Hill", "Same", ""]
    assert entity_text(table, ("description", "absent")) == ["A long story", "", "Same", ""]
    assert entity_text(table.slice(0, 0)) == []


def test_entity_text_refuses_tables_it_cannot_read() -> None:
    with pytest.raises(InvalidData, match=r"no text column: the table has id, price, the tower reads title, artist"):
        entity_text(pa.table({"id": ["a"], "price": [1]}))
    with pytest.raises(InvalidData, match=r"column 'title' is of type int64, a text column is string"):
        entity_text(pa.table({"title": [1]}))


def test_entity_text_is_cut_to_the_limit() -> None:
    assert len(entity_text(pa.table({"title": ["x" * 20_000]}))[0]) == MAX_TEXT_CHARACTERS
