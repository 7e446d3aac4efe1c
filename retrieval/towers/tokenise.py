"""Text into hashed words, word bigrams and character trigrams, many texts in one pass over their code points.

A token is the 64-bit hash of its characters; nothing is looked up here. A word is a run of letters, marks and digits
in one case; each ideograph is a word of its own. A trigram is a character of a word with its two neighbours, the edges
of the word counting as a neighbour. Bigrams do not cross from one item of a list to the next. Training and serving
both call `tokenise`: there is no second implementation. Knows nothing about vocabularies or models.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from retrieval.towers.text import normalise_text
from retrieval.types import I64, StrEnum

U64: TypeAlias = npt.NDArray[np.uint64]

TOKENISATION = "hashed-ngrams-1"  # change the number with any change of a token's value

ITEM_SEPARATOR = "\x1f"  # between the items of a list; normalisation drops it, so no text holds it
_TEXT_SEPARATOR = "\x1e"
_SEPARATORS = frozenset((ord(ITEM_SEPARATOR), ord(_TEXT_SEPARATOR)))

_GAP, _LETTER, _IDEOGRAPH = 0, 1, 2
_BASE = 0x9E3779B97F4A7C15  # odd: the polynomial of a word's characters stays injective for one character
_LONGEST_WORD = 64  # characters; the powers repeat after that, which only makes a collision likelier
_IDEOGRAPHS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))


class Tokenisation(StrEnum):
    """The ways in which a text is cut."""

    WORDS = "words"
    BIGRAMS = "bigrams"
    TRIGRAMS = "trigrams"


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is values[offsets[i]:offsets[i + 1]]. offsets: int64 [n + 1]."""

    values: npt.NDArray[Any]
    offsets: I64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Ragged:
        """The rows with these numbers, in that order, repetition allowed."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = _offsets(lengths)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(starts, lengths) + within], offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts (at least one) in order."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.values for part in parts]), _offsets(lengths))


def tokenise(texts: Sequence[str], *, max_characters: int) -> dict[Tokenisation, Ragged]:
    """Token hashes uint64 of n texts, each way of cutting as n ragged rows.

    Items of a list are joined by ITEM_SEPARATOR into one text. Each text is normalised as everywhere, then cut to
    `max_characters` and folded to one case.
    """
    codes = _code_points(texts, max_characters)
    kinds = _kinds(codes)
    is_word = kinds > _GAP
    before = np.empty_like(is_word)
    before[:1] = False
    # a word begins after a gap and at each ideograph, and again after one
    before[1:] = is_word[:-1] & (kinds[1:] == _LETTER) & (kinds[:-1] == _LETTER)
    begins = is_word & ~before
    places = np.flatnonzero(is_word)
    characters = codes[places].astype(np.uint64)
    first = begins[places]
    starts = np.flatnonzero(first)  # of each word, in `characters`
    separators = np.flatnonzero(codes == ord(_TEXT_SEPARATOR))
    words = _words(characters, starts)
    word_places = places[starts]
    word_offsets = _offsets_at(word_places, separators)
    breaks = np.flatnonzero((codes == ord(_TEXT_SEPARATOR)) | (codes == ord(ITEM_SEPARATOR)))
    bigrams, bigram_places = _bigrams(words, word_places, breaks)
    return {
        Tokenisation.WORDS: Ragged(words, word_offsets),
        Tokenisation.BIGRAMS: Ragged(bigrams, _offsets_at(bigram_places, separators)),
        Tokenisation.TRIGRAMS: Ragged(_trigrams(characters, first), _offsets_at(places, separators)),
    }


def token_hash(token: str) -> int:
    """The hash of one word as `tokenise` gives it, from a plain loop: what tests and readers hold it against."""
    total = 0
    for place, character in enumerate(token):
        total += (ord(character) + 1) * pow(_BASE, place % _LONGEST_WORD + 1, 1 << 64)
    return int(_mix(np.array([total % (1 << 64)], dtype=np.uint64))[0])


def _code_points(texts: Sequence[str], max_characters: int) -> npt.NDArray[np.uint32]:
    joined = _TEXT_SEPARATOR.join([_prepared(text)[:max_characters] for text in texts])
    folded = (joined + _TEXT_SEPARATOR).lower() if texts else ""
    if folded.isascii():
        return np.frombuffer(folded.encode(), dtype=np.uint8).astype(np.uint32)
    return np.frombuffer(folded.encode("utf-32-le"), dtype=np.uint32)


def _prepared(text: str) -> str:
    # of printable ASCII, normalisation changes white space only, which tokens do not see beyond the cut
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    if ITEM_SEPARATOR in text:
        return ITEM_SEPARATOR.join([normalise_text(item) for item in text.split(ITEM_SEPARATOR)])
    return normalise_text(text)


@cache
def _kind_table() -> npt.NDArray[np.uint8]:
    """Kind of each code point of the basic plane; the planes above hold ideographs, signs and emoji: words all."""
    table = np.fromiter(
        (_LETTER if unicodedata.category(chr(code))[0] in "LMN" else _GAP for code in range(0x10000)), dtype=np.uint8
    )
    for low, high in _IDEOGRAPHS:
        inside = table[low : high + 1]
        inside[inside == _LETTER] = _IDEOGRAPH
    return table


def _kinds(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    table = _kind_table()
    if len(codes) == 0 or int(codes.max()) < 0x10000:
        return table[codes]
    return np.where(codes < 0x10000, table[np.minimum(codes, 0xFFFF)], np.uint8(_IDEOGRAPH))


@cache
def _powers() -> U64:
    return np.array([pow(_BASE, place + 1, 1 << 64) for place in range(_LONGEST_WORD)], dtype=np.uint64)


def _words(characters: U64, starts: I64) -> U64:
    if len(starts) == 0:
        return np.empty(0, dtype=np.uint64)
    lengths = np.diff(starts, append=len(characters))
    within = np.arange(len(characters)) - np.repeat(starts, lengths)
    terms = (characters + np.uint64(1)) * _powers()[within % _LONGEST_WORD]
    return _mix(np.add.reduceat(terms, starts))


def _bigrams(words: U64, places: I64, breaks: I64) -> tuple[U64, I64]:
    item = np.searchsorted(breaks, places)
    together = item[1:] == item[:-1]
    pairs = words[:-1] * np.uint64(0xD6E8FEB86659FD93) + words[1:]
    return _mix(pairs[together]), places[:-1][together]


def _trigrams(characters: U64, first: npt.NDArray[np.bool_]) -> U64:
    # code points take 21 bits, so a trigram is one number; 0 is the edge of a word
    if len(characters) == 0:
        return np.empty(0, dtype=np.uint64)
    previous = np.zeros_like(characters)
    following = np.zeros_like(characters)
    inner = ~first[1:]
    previous[1:] = np.where(inner, characters[:-1], 0)
    following[:-1] = np.where(inner, characters[1:], 0)
    return _mix(previous << np.uint64(42) | characters << np.uint64(21) | following)


def _mix(values: U64) -> U64:
    """The finaliser of splitmix64 (Steele et al. 2014): every input bit moves every output bit."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _offsets(lengths: I64) -> I64:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _offsets_at(places: I64, separators: I64) -> I64:
    offsets = np.zeros(len(separators) + 1, dtype=np.int64)
    offsets[1:] = np.searchsorted(places, separators)
    return offsets
