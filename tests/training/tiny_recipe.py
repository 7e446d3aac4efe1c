"""A recipe small enough for any test: forty entities of one source, the tiny random encoder, six steps."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
from tiny_training import COLOURS, THINGS, write_encoder

from retrieval.training.recipes.named import Recipe, Source
from retrieval.training.sources.tables import Split, pair, write_source

SETTINGS = """
[entity]
features = {texts = ["title"]}
model = {token_dim = 4, hidden = 8, table_rows = 32, vocabulary_min_count = 1, oov_ids = 4}
encoded = {columns = ["title"], max_tokens = 16}
[query]
d = 16
max_tokens = 16
[loss]
prefixes = [4, 16]
prefix_weights = [0.5, 1.0]
sketch_width = 64
[tasks.things]
[tasks.things_before]
answer = "frozen"
frozen_vector = "zero_shot"
frozen_space = "zero-shot"
[run]
steps = 6
batch = 8
random_negatives = 4
warmup_steps = 1
save_every = 2
validate_every = 3
threads = 1
"""


class Tiny:
    """A recipe of one small source that counts how often it is prepared."""

    def __init__(self, folder: Path) -> None:
        encoder = write_encoder(folder / "encoder")
        settings = folder / "tiny.toml"
        settings.write_text(SETTINGS.replace("[query]", f'[query]\nencoder = "{encoder}"'))
        self.prepared = 0
        self.recipe = Recipe(
            name="tiny", settings_file=settings, sources={"icecat": Source(prepare=self._prepare, files=("base.txt",))}
        )

    def _prepare(self, data: Path, out: Path, held_out: Collection[str]) -> dict[str, int]:
        self.prepared += 1
        names = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
        ids = [f"e{number}" for number in range(len(names))]
        titles = [f"a {name} for the house" for name in names]
        titles[7] = ""  # nothing to encode
        entities = pa.table({"id": ids, "entity_type": ["pin"] * len(ids), "title": titles})
        rows = [pair(name, "things", entity=entity) for name, entity in zip(names, ids, strict=True)]
        rows.append(pair("Desk", "things", entity="e9"))  # a query that people judged
        write_source(out, entities, {Split.TRAIN: rows[8:], Split.VALIDATION: rows[:4]}, ["0" * 16])
        return {}
