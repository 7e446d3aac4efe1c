"""The demo's tower: trained by the recipe once, and with what the recipe has encoded already not encoded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval import catalogue
from retrieval.cli.progress import progress_printer
from retrieval.towers.checkpoint import Checkpoint, read_checkpoint
from retrieval.towers.entity import EntityTower, OnBatch
from retrieval.training.recipes.run import RecipeResult, run_recipe
from retrieval.training.sources.icecat import product_entities
from retrieval.training.sources.tate import pin_entities
from retrieval.types import F32

RECIPE = "demo"
_FEATURE = "text_embedding"


def trained_tower(folder: Path) -> RecipeResult:
    """The result of the demo recipe in `folder`, trained now unless it is there."""
    with progress_printer("tower") as progress:
        return run_recipe(RECIPE, folder, progress=progress)


def served_tables(pins: int) -> dict[str, pa.Table]:
    """What the indexes are made of, by entity type: all products and `pins` pins, with all their tags."""
    tables = {"product": product_entities(catalogue.products()), "pin": pin_entities(catalogue.pins(pins))}
    return {name: table.drop_columns(["entity_type"]) for name, table in tables.items()}


class ProductTower(EntityTower):
    """An entity tower that takes the encoded text of the products from the recipe's table, by id.

    Handed over here and not as a column of the products, which would make it an attribute of every index.
    """

    def __init__(self, checkpoint: Checkpoint, encoded: Path) -> None:
        super().__init__(checkpoint)
        table = pq.read_table(encoded, columns=["id", _FEATURE])
        self._vectors = table.column(_FEATURE).combine_chunks()
        self._rows = {entity: row for row, entity in enumerate(table.column("id").to_pylist())}

    @classmethod
    def of(cls, recipe: RecipeResult) -> ProductTower:
        """The tower that a recipe trained."""
        entities = recipe.tower.parent / "tables" / "icecat" / "entities.parquet"
        return cls(read_checkpoint(recipe.tower), entities)

    def encode(self, table: pa.Table, *, on_batch: OnBatch | None = None) -> F32:
        """As of any entity tower; ids that the recipe's table lacks are encoded here."""
        ids = table.column("id").to_pylist()
        if any(entity not in self._rows for entity in ids):
            return super().encode(table, on_batch=on_batch)
        rows = np.array([self._rows[entity] for entity in ids], dtype=np.int64)
        return super().encode(table.append_column(_FEATURE, self._vectors.take(pa.array(rows))), on_batch=on_batch)
