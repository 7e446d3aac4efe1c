"""The loss against a slow plain reference: loops over rows, candidates and prefixes, with ties, masks and weights."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import InvalidParams
from retrieval.training.losses import Negatives, Temperature, sampled_softmax


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a), 1e-12) / max(np.linalg.norm(b), 1e-12))


def reference(q, p, p_log_q, p_out, own, r, r_log_q, r_out, tau, weights, prefixes, shares, in_batch, random):
    total = 0.0
    for width, share in zip(prefixes, shares, strict=True):
        for i in range(len(q)):
            positive = cosine(q[i, :width], p[own[i], :width]) / tau - p_log_q[own[i]]
            others = [
                cosine(q[i, :width], p[j, :width]) / tau - p_log_q[j]
                for j in range(len(p))
                if j != own[i] and not p_out[i][j]
            ]
            drawn = [cosine(q[i, :width], r[j, :width]) / tau - r_log_q[j] for j in range(len(r)) if not r_out[i][j]]
            for weight, negatives in ((in_batch, others), (random, drawn)):
                if weight:
                    bottom = math.log(sum(math.exp(value) for value in [positive, *negatives]))
                    total += share * weight * weights[i] * (bottom - positive) / len(q)
    return total


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 5), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]))
def test_loss_equals_the_plain_reference(seed: int, n: int, r: int, ties: bool, in_batch: float) -> None:
    random = np.random.default_rng(seed)
    m, d = n + 2, 8
    pick = (
        (lambda *shape: random.integers(-1, 2, shape) + 0.5) if ties else (lambda *shape: random.standard_normal(shape))
    )
    q, p, others = pick(n, d), pick(m, d), pick(r, d)
    if ties:
        p[1:] = p[:1]  # every candidate scores the same
    own = random.permutation(m)[:n]
    p_out, r_out = random.random((n, m)) < 0.3, random.random((n, r)) < 0.3
    p_log_q, r_log_q = random.standard_normal(m), random.standard_normal(r)
    weights = random.random(n) + 0.1
    tau, prefixes, shares = 0.3, (2, 4, 8), (0.2, 0.3, 1.0)
    as_tensor = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    found = sampled_softmax(
        as_tensor(q),
        Negatives(vectors=as_tensor(p), log_q=as_tensor(p_log_q), excluded=torch.tensor(p_out)),
        torch.tensor(own),
        Negatives(vectors=as_tensor(others), log_q=as_tensor(r_log_q), excluded=torch.tensor(r_out)) if r else None,
        temperature=as_tensor(tau),
        weights=as_tensor(weights),
        prefixes=prefixes,
        prefix_weights=shares,
        in_batch_weight=in_batch,
        random_weight=0.7,
    )
    expected = reference(
        q, p, p_log_q, p_out, own, others, r_log_q, r_out, tau, weights, prefixes, shares, in_batch, 0.7 if r else 0.0
    )
    assert float(found.total) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_excluded_candidate_gets_no_gradient_and_the_own_one_always_does() -> None:
    vectors = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    excluded = torch.tensor([[True, True, False]])  # the own one is marked too, and counts all the same
    negatives = Negatives(vectors=vectors, log_q=torch.zeros(3), excluded=excluded)
    terms = sampled_softmax(
        torch.ones(1, 4), negatives, torch.tensor([0]), None,
        temperature=torch.tensor(0.1), weights=torch.ones(1), prefixes=(4,), prefix_weights=(1.0,),
    )  # fmt: skip
    terms.total.backward()
    assert vectors.grad is not None
    assert vectors.grad[1].abs().sum() == 0
    assert vectors.grad[0].abs().sum() > 0


def test_temperature_stays_within_its_limits_and_learns_only_inside() -> None:
    temperature = Temperature(initial=0.05, low=0.01, high=0.5)
    assert float(temperature().detach()) == pytest.approx(0.05)
    with torch.no_grad():
        temperature.logarithm.fill_(-20.0)
    assert float(temperature().detach()) == pytest.approx(0.01)
    temperature().backward()
    assert temperature.logarithm.grad == 0


def test_temperature_outside_its_limits_is_refused() -> None:
    with pytest.raises(InvalidParams, match=r"temperature 2.0 within 0.01 to 0.5 .* have to rise from 0.005 to 1.0"):
        Temperature(initial=2.0, low=0.01, high=0.5)
