"""The shipped catalogue is whole, typed and small."""

from importlib import resources

import pyarrow as pa
import pytest

from retrieval import catalogue
from retrieval.errors import InvalidParams

PRODUCT_COLUMNS = {
    "id": pa.string(), "title": pa.string(), "description": pa.string(), "brand": pa.string(),
    "price_cents": pa.int64(), "released": pa.string(), "image_url": pa.string(), "product_type": pa.string(),
    "color": pa.string(), "attributes": pa.string(),
}  # fmt: skip
PIN_STRINGS = ("id", "title", "artist", "medium", "date", "classification", "image_url", "url")


def columns(table: pa.Table) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in table.schema}


def test_products() -> None:
    table = catalogue.products()
    assert table.num_rows == 19_406
    assert columns(table) == PRODUCT_COLUMNS
    assert len(set(table["id"].to_pylist())) == table.num_rows
    assert table["id"].null_count == table["title"].null_count == table["price_cents"].null_count == 0


def test_pins() -> None:
    table = catalogue.pins()
    assert table.num_rows == 69_202
    found = columns(table)
    assert {name for name, kind in found.items() if kind == pa.string()} == set(PIN_STRINGS)
    assert all(found[name].value_type == pa.string() for name in ("boards", "tags"))
    assert set(found) == {*PIN_STRINGS, "boards", "tags"}
    assert len(set(table["id"].to_pylist())) == table.num_rows


def test_a_limit_spreads_pins_over_the_collection() -> None:
    whole, some = catalogue.pins(), catalogue.pins(20_000)
    assert some.num_rows == 20_000
    assert len(set(some["id"].to_pylist())) == 20_000
    assert some["id"][0] == whole["id"][0]
    assert some["id"][10_000] == whole["id"][34_601]
    assert catalogue.pins(1_000_000).num_rows == whole.num_rows
    with pytest.raises(InvalidParams, match=r"limit = 0 is not acceptable"):
        catalogue.pins(0)


def test_judgments_are_of_products_that_ship() -> None:
    table = catalogue.judgments()
    assert table.num_rows == 2_281
    assert columns(table) == {"query": pa.string(), "id": pa.string(), "rating": pa.int64()}
    assert len(set(table["query"].to_pylist())) == 85
    assert set(table["rating"].to_pylist()) <= {0, 1, 2, 3}
    assert set(table["id"].to_pylist()) <= set(catalogue.products()["id"].to_pylist())


def test_sample_queries_are_judged_ones_and_enough() -> None:
    queries = catalogue.sample_queries()
    assert set(queries) == {"product", "pin"}
    assert sum(map(len, queries.values())) >= 10
    assert set(queries["product"]) <= set(catalogue.judgments()["query"].to_pylist())


def test_the_files_are_small() -> None:
    sizes = [file.stat().st_size for file in resources.files(catalogue).iterdir() if file.name.endswith(".parquet")]
    assert len(sizes) == 3
    assert sum(sizes) < 6_000_000
