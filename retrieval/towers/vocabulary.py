"""Vocabularies: token hashes into small dense ids, frequent tokens one id each, all others shared by hashing.

Ids 0 … size-1 are the kept tokens, most frequent first; size … size+oov_ids-1 are the buckets of the rest. Lookup is an
open-addressing table in numpy, so that millions of tokens a second find their ids. Knows nothing about texts or models.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from retrieval.errors import InvalidParams
from retrieval.towers.tokenise import U64
from retrieval.types import I32

MAX_SIZE = 2_000_000
MAX_OOV_IDS = 1_000_000

_EMPTY = -1


class Vocabulary:
    """Token hashes and their ids; never changes once made."""

    def __init__(self, tokens: U64, *, oov_ids: int) -> None:
        """tokens: distinct uint64 hashes, place = id; InvalidParams for repeated tokens or sizes out of limits."""
        if len(tokens) > MAX_SIZE:
            raise InvalidParams(f"a vocabulary of {len(tokens):,} tokens is too large: the limit is {MAX_SIZE:,}")
        if not 1 <= oov_ids <= MAX_OOV_IDS:
            raise InvalidParams(f"oov_ids = {oov_ids} is not acceptable: choose 1 to {MAX_OOV_IDS:,}")
        if len(np.unique(tokens)) != len(tokens):
            raise InvalidParams(f"a vocabulary of {len(tokens):,} tokens repeats some of them: give each once")
        self.tokens = np.ascontiguousarray(tokens, dtype=np.uint64)
        self.oov_ids = oov_ids
        self._mask = np.uint64(max(16, 1 << (2 * len(tokens)).bit_length()) - 1)
        self._slots, self._longest_probe = self._fill()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def ids_count(self) -> int:
        """Ids that `ids` can give: kept tokens and buckets."""
        return len(self.tokens) + self.oov_ids

    def ids(self, tokens: U64) -> I32:
        """Ids int32 [n] of token hashes uint64 [n]."""
        out: I32 = (tokens % np.uint64(self.oov_ids)).astype(np.int32) + np.int32(len(self.tokens))
        if len(self.tokens) == 0 or len(tokens) == 0:
            return out
        place = tokens & self._mask
        found = self._slots[place]
        hit = (found != _EMPTY) & (self.tokens[found] == tokens)
        np.copyto(out, found, where=hit)
        pending = np.flatnonzero(~hit & (found != _EMPTY))
        for step in range(1, self._longest_probe + 1):
            if len(pending) == 0:
                break
            wanted = tokens[pending]
            found = self._slots[(wanted + np.uint64(step)) & self._mask]
            hit = (found != _EMPTY) & (self.tokens[found] == wanted)
            out[pending[hit]] = found[hit]
            pending = pending[~hit & (found != _EMPTY)]
        return out

    def _fill(self) -> tuple[I32, int]:
        slots = np.full(int(self._mask) + 1, _EMPTY, dtype=np.int32)
        pending = np.arange(len(self.tokens), dtype=np.int32)
        step = 0
        while len(pending):
            place = (self.tokens[pending] + np.uint64(step)) & self._mask
            free = slots[place] == _EMPTY
            # of the tokens that want the same free slot, the assignment keeps one; the others try the next slot
            slots[place[free]] = pending[free]
            pending = pending[slots[place] != pending]
            step += 1
        return slots, step


def count_tokens(chunks: Iterable[U64]) -> tuple[U64, npt.NDArray[np.int64]]:
    """Distinct tokens of all chunks and how often each occurs, in no particular order."""
    tokens, counts = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    for chunk in chunks:
        new, found = np.unique(chunk, return_counts=True)
        merged, place = np.unique(np.concatenate([tokens, new]), return_inverse=True)
        totals = np.zeros(len(merged), dtype=np.int64)
        np.add.at(totals, place, np.concatenate([counts, found]))
        tokens, counts = merged, totals
    return tokens, counts


def build_vocabulary(chunks: Iterable[U64], *, size: int, min_count: int, oov_ids: int) -> Vocabulary:
    """The vocabulary of the `size` most frequent tokens that occur at least `min_count` times, ties by hash.

    InvalidParams for a size or min_count below 1.
    """
    if size < 1 or min_count < 1:
        raise InvalidParams(
            f"a vocabulary of size {size} and min_count {min_count} is not acceptable: both are 1 or more"
        )
    tokens, counts = count_tokens(chunks)
    kept = counts >= min_count
    tokens, counts = tokens[kept], counts[kept]
    order = np.lexsort((tokens, -counts))[:size]
    return Vocabulary(tokens[order], oov_ids=oov_ids)
