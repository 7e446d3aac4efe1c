"""The bfloat16 forward pass beside float32: how near, alone and in a batch, from many threads, and when it is left."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny_tower import tiny_encoder

from retrieval import catalogue
from retrieval.errors import InvalidParams
from retrieval.towers import encoder as encoder_module
from retrieval.towers.encoder import Precision
from retrieval.towers.packed_bert import _Linear
from retrieval.types import F32

QUERIES = sorted(set(catalogue.judgments().column("query").to_pylist()))


def cosines(a: F32, b: F32) -> F32:
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_bfloat16_is_near_float32_on_real_queries_alone_and_together() -> None:
    plain = tiny_encoder()
    fast = plain.computing_in(Precision.BFLOAT16)
    assert (plain.precision, fast.precision) == (Precision.FLOAT32, Precision.BFLOAT16)
    exact, together = plain.encode(QUERIES, threads=1), fast.encode(QUERIES, threads=1)
    alone = np.concatenate([fast.encode([text], threads=1) for text in QUERIES])
    assert 0.999 <= cosines(exact, together).min() < 1 - 1e-9
    assert cosines(alone, together).min() >= 0.999


def test_threads_give_what_one_thread_gives() -> None:
    fast = tiny_encoder().computing_in("bfloat16")
    expected = fast.encode(QUERIES, threads=1)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: fast.encode(QUERIES, threads=1), range(8)):
            np.testing.assert_array_equal(found, expected)


def test_auto_keeps_float32_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "cpu_has_bfloat16", lambda: False)
    assert tiny_encoder().computing_in("auto").precision == Precision.FLOAT32


@pytest.mark.parametrize("what", ["check", "kind"])
def test_auto_keeps_float32_where_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(encoder_module, "cpu_has_bfloat16", lambda: True)
    if what == "check":
        monkeypatch.setattr(encoder_module, "_least_cosine", lambda a, b: 0.98)
    else:
        monkeypatch.setattr(encoder_module, "can_pack", lambda model: False)
    assert tiny_encoder().computing_in("auto").precision == Precision.FLOAT32
    with pytest.raises(InvalidParams, match=r"cosine of 0.9800|not a plain BERT"):
        tiny_encoder().computing_in("bfloat16")


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(InvalidParams, match="precision = 'int8' is not acceptable: choose auto, float32, bfloat16"):
        tiny_encoder().computing_in("int8")


def test_a_torch_without_ordered_weights_gives_the_same_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bias, states = (torch.randn(shape, generator=generator).bfloat16() for shape in ((48, 32), (48,), (7, 32)))
    ordered = _Linear(weight, bias)(states)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    plain = _Linear(weight, bias)
    assert not plain._ordered
    torch.testing.assert_close(plain(states), ordered, atol=0.02, rtol=0.02)
