"""The shipped catalogue: real products and pins, people's judgements of product queries, and queries to try.

Products come from Open Icecat, pins from the Tate's collection (see NOTICE for licences). Everything is Parquet inside
the package, read into memory whole (about 40 MB). Knows nothing about towers or indexes.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import DamagedData, InvalidParams

__all__ = ["judgments", "pins", "products", "sample_queries"]

# Product queries are judged ones; pin queries are subjects that the pins' tags and boards name.
_SAMPLE_QUERIES = {
    "product": (
        "bluetooth speaker",
        "gaming keyboard",
        "laser printer",
        "docking station",
        "memory card",
        "projector screen",
        "rechargeable batteries",
        "wireless mouse",
    ),
    "pin": (
        "sailing boats on a stormy sea",
        "portrait of a woman in a hat",
        "ruined abbey",
        "horse and cart",
        "mother and child",
        "sunset over Venice",
        "abstract geometric forms",
        "windmill by a river",
    ),
}


def products() -> pa.Table:
    """All 19,406 products.

    Columns: id, title, description, brand (string), price_cents (int64), released (ISO date as string), image_url,
    product_type, color (string, null where unknown), attributes (JSON object as string).
    """
    return _read("products.parquet")


def pins(limit: int | None = None) -> pa.Table:
    """All 69,202 pins, or `limit` of them spread evenly over the collection; InvalidParams for a limit below 1.

    Columns: id, title, artist, medium, date, classification (string), boards, tags (list of string), image_url (string,
    null where there is none), url (string).
    """
    if limit is not None and limit < 1:
        raise InvalidParams(f"limit = {limit} is not acceptable: ask for 1 pin or more")
    table = _read("pins.parquet")
    if limit is None or limit >= table.num_rows:
        return table
    return table.take(pa.array(np.arange(limit) * table.num_rows // limit))


def judgments() -> pa.Table:
    """All 2,281 judgements of 85 product queries: query, id (string), rating (int64, 0 to 3, by people)."""
    return _read("judgments.parquet")


def sample_queries() -> dict[str, tuple[str, ...]]:
    """Queries worth trying, 8 for each entity type (`product`, `pin`)."""
    return dict(_SAMPLE_QUERIES)


def _read(name: str) -> Any:
    try:
        with resources.files(__name__).joinpath(name).open("rb") as file:
            return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DamagedData(f"the shipped {name} cannot be read ({error}): install this package again") from error
