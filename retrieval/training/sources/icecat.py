"""The shipped product catalogue (Open Icecat): its columns as features, shop-like queries made of its own columns.

The queries that people judged (`retrieval.catalogue.judgments`) are the test; neither they nor what differs from them
only by a plural are trained on or validated with.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from retrieval import catalogue
from retrieval.towers.text import normalise_text
from retrieval.training.sources.product_queries import product_queries
from retrieval.training.sources.related import related_queries
from retrieval.training.sources.tables import Split, held_out_key, pair, split_of, write_source

TASK, RELATED_TASK = "icecat", "related"
_VALIDATION = 0.05
_MAX_ATTRIBUTES, _MAX_VALUE_CHARACTERS = 12, 60
# columns of their own, logistics, and what no shopper asks for
_SKIPPED = ("package", "pallet", "master", "dimension", "temperature", "humidity", "certif", "oem", "gtin", "country")
_OWN = frozenset(("product_colour", "product_type", "status", "safety", "sustainability_compliance"))


def product_entities(products: pa.Table) -> pa.Table:
    """Products with the columns that a tower reads: attributes as a list of words instead of JSON, and `entity_type`.

    products: as `retrieval.catalogue.products` gives them. Training and serving both go through here.
    """
    place = products.column_names.index("attributes")
    lists = pa.array([_attributes(text) for text in products.column("attributes").to_pylist()], pa.list_(pa.string()))
    kinds = pa.array(["product"] * products.num_rows)
    return products.set_column(place, "attributes", lists).append_column("entity_type", kinds)


def prepare_icecat(out: Path, *, held_out: Collection[str] = ()) -> dict[str, int]:
    """Tables of the shipped products; returns the number of pairs per split. Split by query, the judged ones are the
    test (weight = rating).

    held_out: keys of queries that are not trained on. InvalidArgument when `out` exists.
    """
    entities = product_entities(catalogue.products()).drop_columns(["price_cents", "released", "image_url"])
    judged = catalogue.judgments().to_pylist()
    never = {plain_key(row["query"]) for row in judged}
    held = {held_out_key(row["query"]) for row in judged}
    pairs: dict[Split, list[dict[str, Any]]] = {split: [] for split in Split}
    trained = {}
    for query, ids in product_queries(entities.to_pylist()).items():
        if plain_key(query) in never:
            continue
        split = split_of(query, validation=_VALIDATION, test=0.0, held_out=held_out)
        if split is Split.TRAIN:
            trained[query] = ids
        else:
            split = Split.VALIDATION  # the test is the judged queries and nothing else
            held.add(held_out_key(query))
        pairs[split] += [pair(query, TASK, entity=entity, weight=(2 + rank) ** -0.5) for rank, entity in enumerate(ids)]
    pairs[Split.TRAIN] += [
        pair(query, RELATED_TASK, answer=other, weight=overlap) for query, other, overlap in related_queries(trained)
    ]
    pairs[Split.TEST] += [
        pair(row["query"], TASK, entity=row["id"], weight=float(row["rating"])) for row in judged if row["rating"] > 0
    ]
    write_source(out, entities, pairs, held)
    return {str(split): len(rows) for split, rows in pairs.items()}


def plain_key(query: str) -> str:
    """What a query has in common with those that differ from it only by case, spacing or a plural s."""
    return " ".join(word.removesuffix("s") for word in normalise_text(query).lower().split())


def _attributes(text: str | None) -> list[str]:
    found: dict[str, None] = {}
    for name, value in json.loads(text or "{}").items():
        if name in _OWN or any(part in name for part in _SKIPPED) or not isinstance(value, str):
            continue
        if len(value) <= _MAX_VALUE_CHARACTERS and any(c.isalpha() for c in value):
            found[value] = None
    return list(found)[:_MAX_ATTRIBUTES]
