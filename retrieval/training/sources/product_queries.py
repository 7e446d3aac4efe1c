"""What a shopper would type to find a product, from the products' own columns.

A title names the kind of thing in words that many titles share ("toner cartridge", "notebook case"). The longest such
phrases of a title are queries, alone and with the brand, the colour or an attribute in front ("hp toner cartridge",
"black notebook case", "wireless mouse"); so is the brand. The answers of a query are the products that are most about
it by their words (`word_ranking`). Knows nothing about files, splits or towers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from retrieval.training.sources.tables import held_out_key
from retrieval.training.sources.word_ranking import WordRanking

MIN_PRODUCTS = 6  # whose titles share a phrase
MIN_COMPOUND = 3  # that answer a phrase with a brand, colour or attribute
MAX_SHARE = 0.08  # of all products: broader queries say too little
MAX_ANSWERS = 15  # of one query

_MAX_WORDS = 3
_MAX_PHRASES = 5  # of one title
_MAX_VALUES = 3  # attribute values of one product that queries are made with
_WORD = re.compile(r"[a-z0-9][a-z0-9.+/'-]*")
_IS_WORD = re.compile(r"[a-z][a-z'/+-]*[a-z]")
# words that say nothing of what a thing is, units, and colours, which are a column of their own
_STOP_TEXT = """
and or with for the of to in on by from as at is it no not new set kit up per ea de original compatible series pack type
version pc pcs cm mm inch ft gb mb tb mhz ghz kg dpi pixels rpm color colour black white grey gray silver blue red green
yellow cyan magenta beige pink gold orange purple brown transparent multicolour metallic
"""
_STOP = frozenset(_STOP_TEXT.split())


def product_queries(products: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Query (lower case) -> ids of up to MAX_ANSWERS products that are most about it, the best first.

    products: rows with id, title, brand, color, product_type and attributes (list of string).
    """
    runs = [_runs(row) for row in products]
    counted: Counter[str] = Counter()
    for found in runs:
        counted.update({phrase for run in found for phrase, _, _ in _phrases(run)})
    limit = max(MIN_PRODUCTS, int(MAX_SHARE * len(products)))
    kept = {phrase for phrase, count in counted.items() if count >= MIN_PRODUCTS}
    simple: dict[str, list[str]] = defaultdict(list)
    compound: dict[str, list[str]] = defaultdict(list)
    for row, found in zip(products, runs, strict=True):
        phrases = _longest(found, kept)
        kind = (row["product_type"] or "").lower()
        if _IS_WORD.fullmatch(kind.replace(" ", "")) and kind not in phrases:
            phrases.append(kind)
        brand = (row["brand"] or "").lower()
        for query in {brand, *phrases} - {""}:
            simple[query].append(row["id"])
        fronts = [brand, *_colours(row), *_values(row)]
        for query in {f"{front} {phrase}" for front in fronts for phrase in phrases if front and front not in phrase}:
            compound[query].append(row["id"])
    out = {query: ids for query, ids in simple.items() if MIN_COMPOUND <= len(ids) <= limit}
    out |= {query: ids for query, ids in compound.items() if MIN_COMPOUND <= len(ids) <= limit and query not in out}
    ids = [row["id"] for row in products]
    ranking = WordRanking([f"{row['title']} {row['description'] or ''}" for row in products])
    ranked = {query: [ids[number] for number in ranking.best(query, MAX_ANSWERS)] for query in out}
    return {query: best for query, best in ranked.items() if best}


def _runs(row: Mapping[str, Any]) -> list[list[str]]:
    """Stretches of plain words of a title, without its brand."""
    brand = set(_WORD.findall((row["brand"] or "").lower()))
    runs: list[list[str]] = [[]]
    for chunk in re.split(r"[,()\[\]|;:]| - ", row["title"].lower()):
        for word in _WORD.findall(chunk):
            if _IS_WORD.fullmatch(word) and word not in _STOP and word not in brand:
                runs[-1].append(word)
            else:
                runs.append([])
        runs.append([])
    return [run for run in runs if run]


def _phrases(run: Sequence[str]) -> list[tuple[str, int, int]]:
    """Phrases of a run with their first word and the one after the last, longest first."""
    return [
        (" ".join(run[start : start + size]), start, start + size)
        for size in range(min(_MAX_WORDS, len(run)), 0, -1)
        for start in range(len(run) - size + 1)
    ]


def _longest(runs: Sequence[Sequence[str]], kept: set[str]) -> list[str]:
    """Kept phrases of a title that do not lie inside another of them."""
    out: dict[str, None] = {}
    for run in runs:
        taken: list[tuple[int, int]] = []
        for phrase, start, stop in _phrases(run):
            if phrase in kept and not any(first <= start and stop <= last for first, last in taken):
                taken.append((start, stop))
                out[phrase] = None
    return list(out)[:_MAX_PHRASES]


def _colours(row: Mapping[str, Any]) -> list[str]:
    colour = (row["color"] or "").lower()
    return [] if "," in colour else [colour]


def _values(row: Mapping[str, Any]) -> list[str]:
    """Short attribute values; which ones follows from the product, so that no kind of attribute is left out."""
    short = {value.lower() for value in row["attributes"] if len(value) <= 20 and len(value.split()) <= 2}
    short -= {"original", (row["brand"] or "").lower()}
    return sorted(short, key=lambda value: held_out_key(f"{row['id']} {value}"))[:_MAX_VALUES]
