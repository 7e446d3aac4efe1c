"""Which texts are most about a query, by words alone: BM25 over the texts that have all of its words.

The weak supervision that replaces clicks where there are none (Dehghani et al. 2017, arXiv 1704.08803). Formula of
Robertson and Zaragoza (2009, "The Probabilistic Relevance Framework"), k1 = 1.2, b = 0.75. For a few ten thousand short
texts; the baseline of an evaluation is another thing. Knows nothing about products or towers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

_K1, _B = 1.2, 0.75
_WORD = re.compile(r"[^\W_][\w.+/'-]*")


class WordRanking:
    """Ranks texts by number; case and a plural s do not count."""

    def __init__(self, texts: Sequence[str]) -> None:
        holders: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        lengths = np.zeros(len(texts))
        for number, text in enumerate(texts):
            words = plain_words(text)
            lengths[number] = len(words)
            for word, count in Counter(words).items():
                numbers, counts = holders[word]
                numbers.append(number)
                counts.append(count)
        # word -> numbers of the texts that have it, ascending, and how often they have it
        self._holders = {word: (np.array(numbers), np.array(counts)) for word, (numbers, counts) in holders.items()}
        # what a count is weighed against: long texts need more of a word to be as much about it
        self._scales = _K1 * (1 - _B + _B * lengths / max(1.0, float(lengths.mean()) if len(texts) else 1.0))

    def best(self, query: str, k: int) -> list[int]:
        """Numbers of up to k texts that have all words of the query, best first; ties go to the smaller number."""
        words = list(dict.fromkeys(plain_words(query)))
        if not words or any(word not in self._holders for word in words):
            return []
        found = min((self._holders[word][0] for word in words), key=len)
        for word in words:
            numbers = self._holders[word][0]
            found = found[numbers[np.minimum(np.searchsorted(numbers, found), len(numbers) - 1)] == found]
        scores, n = np.zeros(len(found)), len(self._scales)
        for word in words:
            numbers, counts = self._holders[word]
            count = counts[np.searchsorted(numbers, found)]
            weight = np.log(1 + (n - len(numbers) + 0.5) / (len(numbers) + 0.5))
            scores += weight * count / (count + self._scales[found])
        return [int(number) for number in found[np.lexsort((found, -scores))][:k]]


def plain_words(text: str) -> list[str]:
    """Words of a text in lower case, without a plural s."""
    return [word.removesuffix("s") for word in _WORD.findall(text.lower())]
