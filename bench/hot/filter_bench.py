"""A filter over two columns of 200,000 rows made into a bitmap, beside the two comparisons by Arrow alone."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from retrieval.serving.filtering.bitmaps import RowFilters
from retrieval.serving.filtering.filters import AllOf, Equal, Range

N = 200_000


@pytest.fixture(scope="module")
def columns() -> dict[str, pa.Array]:
    rng = np.random.default_rng(0)
    shops = pa.array([f"shop{number}" for number in range(50)])
    return {
        "shop": pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 50, N, dtype=np.int32)), shops),
        "price": pa.array(rng.random(N, dtype=np.float32) * 100),
    }


@pytest.mark.benchmark(group="filter")
def test_reference(benchmark: Any, columns: dict[str, pa.Array]) -> None:
    codes = columns["shop"].indices
    benchmark(lambda: pc.and_(pc.equal(codes, 7), pc.less(columns["price"], 20.0)))


@pytest.mark.benchmark(group="filter")
def test_ours(benchmark: Any, columns: dict[str, pa.Array]) -> None:
    wanted = AllOf(filters=(Equal(column="shop", value="shop7"), Range(column="price", below=20.0)))
    allowed = benchmark(lambda: RowFilters(columns, N).allowed(wanted))  # a new one each time: nothing is cached
    shop, price = columns["shop"].indices.to_numpy(), columns["price"].to_numpy()
    assert allowed.count == int(((shop == 7) & (price < np.float32(20))).sum())
