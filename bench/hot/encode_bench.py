"""One query text encoded by the shipped encoder on one thread, beside torch's products of the same sizes alone.

The reference multiplies eight token vectors by the weights of six layers of width 384, which is what the text costs
at the least.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from retrieval.towers.checkpoint import write_checkpoint
from retrieval.towers.pretrained import load_default
from retrieval.towers.projection import Projection
from retrieval.towers.query import QueryTower

TOKENS, LAYERS, WIDTH, D = 8, 6, 384, 256
TEXT = "long red summer dress with sleeves"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.benchmark(group="encode")
def test_reference(benchmark: Any) -> None:
    shapes = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)] * LAYERS
    weights = [torch.randn(shape) for shape in shapes]
    given = [torch.randn(TOKENS, len(weight)) for weight in weights]

    def products() -> None:
        with torch.inference_mode():
            for x, weight in zip(given, weights, strict=True):
                x @ weight

    benchmark(products)


@pytest.mark.benchmark(group="encode")
def test_ours(benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = tmp_path_factory.mktemp("tower")
    weight = np.random.default_rng(0).standard_normal((D, WIDTH)).astype(np.float32)
    write_checkpoint(checkpoint, encoder=load_default(max_tokens=64), projection=Projection(weight))
    tower = QueryTower.load(checkpoint, threads=1)
    vectors = benchmark(tower.encode, [TEXT])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
