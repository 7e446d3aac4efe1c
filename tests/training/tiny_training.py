"""A training small enough for any test: tiny random encoder, forty entities, pairs whose words agree. Run as a program,
it trains with the configuration it is given, in as many processes as `torchrun` says, and can end itself with SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tiny_tower import tiny_encoder  # noqa: E402

from retrieval.training.config import TrainSettings, make_settings  # noqa: E402
from retrieval.training.ranks import joined_ranks  # noqa: E402
from retrieval.training.trainer import Trainer  # noqa: E402

COLOURS = ["red", "blue", "green", "black", "white", "brown", "golden", "violet"]
THINGS = ["chair", "table", "lamp", "clock", "carpet"]


def write_encoder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in tiny_encoder().parts().items():
        (folder / name).write_bytes(data)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


def write_tables(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [(colour, thing) for colour in COLOURS for thing in THINGS]
    random = np.random.default_rng(0)
    old = random.standard_normal((len(names), 16)).astype(np.float32)
    entities = pa.table(
        {
            "id": [f"e{number}" for number in range(len(names))],
            "entity_type": ["pin" if number % 2 else "product" for number in range(len(names))],
            "title": [f"a {colour} {thing} for the house" for colour, thing in names],
            "tags": [[colour, thing] if number % 3 else [] for number, (colour, thing) in enumerate(names)],
            "old": pa.FixedSizeListArray.from_arrays(pa.array(old.ravel()), 16),
        }
    )
    pq.write_table(entities, folder / "entities.parquet")
    rows: list[dict[str, Any]] = []
    for number, (colour, thing) in enumerate(names):
        task = "pins" if number % 2 else "products"
        rows += [{"query": f"{colour} {thing}", "task": task, "id": f"e{number}", "answer": None, "weight": 2.0}]
        rows += [{"query": thing, "task": task, "id": f"e{number}", "answer": None, "weight": 1.0}]
        rows += [
            {"query": f"{colour} {thing}", "task": "alike", "id": None, "answer": f"{thing} {colour}", "weight": 1.0}
        ]
        rows += [{"query": f"{colour} {thing}", "task": "frozen", "id": f"e{number}", "answer": None, "weight": 1.0}]
    schema = pa.schema({"query": "string", "task": "string", "id": "string", "answer": "string", "weight": "float32"})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "pairs.parquet")
    held = [row for row in rows if row["task"] in ("pins", "products")][::5]
    pq.write_table(pa.Table.from_pylist(held, schema=schema), folder / "validation.parquet")


def tiny_body(folder: Path) -> dict[str, Any]:
    """Settings as nested values; all tasks of all kinds, dropout and hidden features on."""
    return {
        "data": {
            "entities": [str(folder / "entities.parquet")],
            "pairs": str(folder / "pairs.parquet"),
            "validation": str(folder / "validation.parquet"),
        },
        "query": {"encoder": str(folder / "encoder"), "d": 16, "max_tokens": 16},
        "entity": {
            "features": {"texts": ["title", "tags"]},
            "model": {"token_dim": 8, "hidden": 16, "table_rows": 64, "vocabulary_min_count": 1, "oov_ids": 8},
            "encoded": {"columns": ["title"], "max_tokens": 16},
        },
        "loss": {"prefixes": [4, 16], "prefix_weights": [0.5, 1.0], "sketch_width": 1024},
        "tasks": {
            "pins": {"entity_type": "pin"},
            "products": {"entity_type": "product"},
            "alike": {"answer": "query", "share": 0.5},
            "frozen": {"answer": "frozen", "frozen_vector": "old", "frozen_space": "old-space"},
        },
        "run": {
            "steps": 12,
            "batch": 28,
            "random_negatives": 8,
            "warmup_steps": 2,
            "save_every": 4,
            "log_every": 1,
            "threads": 1,
        },
    }


def write_all(folder: Path) -> dict[str, Any]:
    write_encoder(folder / "encoder")
    write_tables(folder)
    return tiny_body(folder)


def main(config: str, work: str, out: str, kill_at: str) -> None:
    settings: TrainSettings = make_settings(json.loads(Path(config).read_text()), where=config)

    def on_step(step: int) -> None:
        if step == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    with joined_ranks() as ranks:
        Trainer(settings, work=Path(work), ranks=ranks, on_step=on_step).run(Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
