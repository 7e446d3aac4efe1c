"""Tokens against a plain loop, ids against a dictionary, features with anything missing."""

import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import InvalidData, InvalidParams
from retrieval.towers.features import FeatureSettings, read_features, vector_column
from retrieval.towers.text import normalise_text
from retrieval.towers.tokenise import ITEM_SEPARATOR, Tokenisation, token_hash, tokenise
from retrieval.towers.vocabulary import Vocabulary, build_vocabulary

TEXT = st.text(st.sampled_from("abcZ09 -_.,éßİ日本ア가\U0001f600\t\n\x00​ſﬁ"), max_size=30)


def plain_words(item: str) -> list[str]:
    """Words of one item, as the module's first lines describe them."""
    words, current = [], ""
    for character in normalise_text(item).lower():
        code = ord(character)
        ideograph = any(
            a <= code <= b for a, b in ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
        )
        letter = unicodedata.category(character)[0] in "LMN"
        if code > 0xFFFF or (ideograph and letter):
            words += [current, character] if current else [character]
            current = ""
        elif letter:
            current += character
        else:
            words, current = ([*words, current] if current else words), ""
    return [*words, current] if current else words


def mix(value: int) -> int:
    value ^= value >> 30
    value = value * 0xBF58476D1CE4E5B9 % 2**64
    value ^= value >> 27
    value = value * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


@settings(max_examples=300)
@given(st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=5))
def test_tokens_equal_those_of_a_plain_loop(rows: list[list[str]]) -> None:
    found = tokenise([ITEM_SEPARATOR.join(items) for items in rows], max_characters=10_000)
    for place, items in enumerate(rows):
        words = [plain_words(item) for item in items]
        bigrams = [
            mix((token_hash(a) * 0xD6E8FEB86659FD93 + token_hash(b)) % 2**64)
            for item in words
            for a, b in pairwise(item)
        ]
        trigrams = [
            mix(a << 42 | b << 21 | c)
            for item in words
            for word in item
            for codes in [[0, *map(ord, word), 0]]
            for a, b, c in zip(codes, codes[1:], codes[2:], strict=False)
        ]
        expected = {
            Tokenisation.WORDS: [token_hash(word) for item in words for word in item],
            Tokenisation.BIGRAMS: bigrams,
            Tokenisation.TRIGRAMS: trigrams,
        }
        for cut, tokens in expected.items():
            ragged = found[cut]
            assert ragged.values[ragged.offsets[place] : ragged.offsets[place + 1]].tolist() == tokens, (cut, items)


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_a_text_has_the_same_tokens_whatever_it_is_tokenised_with(texts: list[str]) -> None:
    together = tokenise(texts, max_characters=20)
    for place, text in enumerate(texts):
        alone = tokenise([text], max_characters=20)
        for cut in Tokenisation:
            assert np.array_equal(together[cut].take(np.array([place])).values, alone[cut].values)


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=80), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_vocabulary_ids_equal_those_of_a_dictionary(tokens: list[int], oov_ids: int, seed: int) -> None:
    # tokens that fall on the same slots, so that probing is exercised
    tokens = list(dict.fromkeys([*tokens, *(token + (1 << 40) & (2**64 - 1) for token in tokens)]))
    vocabulary = Vocabulary(np.array(tokens, dtype=np.uint64), oov_ids=oov_ids)
    known = {token: number for number, token in enumerate(tokens)}
    asked = [*tokens, *np.random.default_rng(seed).integers(0, 2**63, 40).tolist()]
    found = vocabulary.ids(np.array(asked, dtype=np.uint64))
    assert found.tolist() == [known.get(token, len(tokens) + token % oov_ids) for token in asked]
    assert (found < vocabulary.ids_count).all()


def test_a_vocabulary_keeps_the_most_frequent_tokens() -> None:
    chunks = [np.array([5, 5, 5, 9], dtype=np.uint64), np.array([9, 7, 3], dtype=np.uint64)]
    assert build_vocabulary(chunks, size=9, min_count=2, oov_ids=1).tokens.tolist() == [5, 9]
    assert build_vocabulary(chunks, size=3, min_count=1, oov_ids=1).tokens.tolist() == [5, 9, 3]
    with pytest.raises(InvalidParams, match="a vocabulary of size 0 and min_count 1 is not acceptable"):
        build_vocabulary(chunks, size=0, min_count=1, oov_ids=1)
    with pytest.raises(InvalidParams, match="repeats some of them"):
        Vocabulary(np.array([1, 1], dtype=np.uint64), oov_ids=1)


SETTINGS = FeatureSettings(texts=("title", "tags"), vectors={"image": 3})


def read(table: pa.Table) -> object:
    empty = Vocabulary(np.empty(0, dtype=np.uint64), oov_ids=100)
    return read_features(table, SETTINGS, dict.fromkeys(Tokenisation, empty))


def test_any_feature_may_be_missing() -> None:
    image = vector_column(np.array([[0, 3, 4], [0, 0, 0]], dtype=np.float32), present=np.array([True, False]))
    table = pa.table({"title": ["a b", None], "tags": [["x", None, "y z"], []], "image": image})
    features = read(table)
    assert features.present.tolist() == [[True, True, True], [False, False, False]]
    assert features.vectors["image"].tolist() == pytest.approx(np.array([[0, 0.6, 0.8], [0, 0, 0]]))
    assert np.diff(features.tokens[Tokenisation.BIGRAMS].offsets).tolist() == [1, 1, 0, 0]  # x|y z is no bigram
    assert read(pa.table({"title": ["a"]})).present.tolist() == [[True, False, False]]
    assert read(pa.table({"title": pa.nulls(1), "image": pa.nulls(1)})).present.any() == False  # noqa: E712


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"title": [1]}, "feature 'title' is of type int64, a text feature is string or list of string"),
        ({"image": ["x"]}, "feature 'image' is of type string, a vector feature is a list of 3 floats"),
        ({"image": [[1.0, 2.0]]}, "feature 'image' has a vector of 2 dimensions, the model takes 3"),
        ({"image": [[1.0, float("nan"), 0.0]]}, "feature 'image' of row 0 is zero or not finite"),
        ({"image": [None, [0.0, 0.0, 0.0]]}, "feature 'image' of row 1 is zero or not finite"),
    ],
)
def test_a_feature_of_wrong_type_or_dimension_is_refused(column: dict[str, list], said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        read(pa.table(column))
