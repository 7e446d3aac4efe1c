"""Home Depot product search: real queries, product titles, relevance 1 to 3 by people (2.33 and above is relevant)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from retrieval.training.sources.tables import Split, held_out_key, pair, read_source, split_of, write_source

TASK = "homedepot"
RELEVANT_FROM = 2.33  # the mean of three judges: two of them said relevant
_VALIDATION, _TEST = 0.05, 0.15


def prepare_homedepot(data: Path, out: Path, *, held_out: Collection[str] = ()) -> dict[str, int]:
    """Tables from `homedepot_*.parquet` in `data`; returns the number of pairs per split. Split by query.

    held_out: keys of queries that are not trained on whatever `split_of` says of them. InvalidData for a file that is
    absent or lacks a column, InvalidArgument when `out` exists.
    """
    products = read_source(data / "homedepot_products.parquet", ["id", "title"])
    judged = read_source(data / "homedepot_judgments.parquet", ["query", "id", "relevance"])
    ids = [f"hd:{number}" for number in products.column("id").to_pylist()]
    entities = pa.table(
        {"id": ids, "entity_type": ["product"] * len(ids), "title": products.column("title")},
    )
    pairs: dict[Split, list[dict[str, Any]]] = {split: [] for split in Split}
    held = set()
    for row in judged.to_pylist():
        split = split_of(row["query"], validation=_VALIDATION, test=_TEST, held_out=held_out)
        if split is not Split.TRAIN:
            held.add(held_out_key(row["query"]))
        if row["relevance"] >= RELEVANT_FROM:
            pairs[split].append(pair(row["query"], TASK, entity=f"hd:{row['id']}"))
    write_source(out, entities, pairs, held)
    return {str(split): len(rows) for split, rows in pairs.items()}
