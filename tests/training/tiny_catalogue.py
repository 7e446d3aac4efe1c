"""The shipped pins as a training small enough for a test: their tags, given by people, are the queries, and no feature.

Queries are split by a stated hash: a held-out tag is in no pair of the training.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval import catalogue

PAIRS = pa.schema({"query": "string", "task": "string", "id": "string"})


def write_catalogue(folder: Path, *, pins: int) -> dict[str, Any]:
    """Tables in `folder`, and the settings of a training on them as nested values."""
    table = catalogue.pins(pins)
    wearers: dict[str, list[str]] = defaultdict(list)
    for entity, tags in zip(table["id"].to_pylist(), table["tags"].to_pylist(), strict=True):
        for tag in tags or ():
            wearers[tag.lower()].append(entity)
    rows: dict[bool, list[dict[str, str]]] = {True: [], False: []}
    for tag, entities in wearers.items():
        if 3 <= len(entities) <= pins // 50:
            held = int(hashlib.sha256(tag.encode()).hexdigest(), 16) % 5 == 0
            rows[held] += [{"query": tag, "task": "pins", "id": entity} for entity in entities]
    pq.write_table(table.select(["id", "title", "artist", "medium", "boards"]), folder / "pins.parquet")
    for held, name in ((False, "pairs"), (True, "held_out")):
        pq.write_table(pa.Table.from_pylist(rows[held], schema=PAIRS), folder / f"{name}.parquet")
    return {
        "data": {"entities": [str(folder / "pins.parquet")], "pairs": str(folder / "pairs.parquet")},
        "query": {"d": 64, "max_tokens": 16},
        "entity": {
            "features": {"texts": ["title", "artist", "medium", "boards"]},
            "model": {"token_dim": 32, "hidden": 128, "table_rows": 8192, "vocabulary_min_count": 2},
        },
        "loss": {"prefixes": [16, 64], "prefix_weights": [0.2, 1.0], "sketch_width": 1 << 14},
        "tasks": {"pins": {}},
        "run": {"steps": 60, "batch": 256, "random_negatives": 256, "warmup_steps": 10, "threads": 1,
                "learning_rate": 5e-3, "learning_rate_tokens": 1e-2, "save_every": 1000},
    }  # fmt: skip
