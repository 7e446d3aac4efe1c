"""Which queries are about the same: those whose answers overlap most. The source of query-to-query pairs.

Knows nothing about texts: two queries are related by the entities that answer them, not by their words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

MIN_SHARED = 3  # one entity in common may be chance
_MAX_QUERIES = 24  # of one entity that are compared: the work grows with the square


def related_queries(answers: Mapping[str, Collection[str]], *, each: int = 2) -> list[tuple[str, str, float]]:
    """(query, related query, Jaccard overlap) for up to `each` related queries of every query, the nearest first.

    answers: query -> ids of the entities that answer it. Queries need MIN_SHARED answers in common; ties go to the
    smaller text, so that equal input gives equal output.
    """
    asked: dict[str, list[str]] = defaultdict(list)
    for query in sorted(answers):
        for entity in answers[query]:
            asked[entity].append(query)
    shared: dict[str, Counter[str]] = defaultdict(Counter)
    for queries in asked.values():
        # rare queries say more about an entity than frequent ones
        kept = sorted(queries, key=lambda query: (len(answers[query]), query))[:_MAX_QUERIES]
        for query in kept:
            shared[query].update(kept)
    out = []
    for query in sorted(shared):
        found = [
            (count / (len(answers[query]) + len(answers[other]) - count), other)
            for other, count in shared[query].items()
            if other != query and count >= MIN_SHARED
        ]
        found.sort(key=lambda entry: (-entry[0], entry[1]))
        out += [(query, other, overlap) for overlap, other in found[:each]]
    return out
