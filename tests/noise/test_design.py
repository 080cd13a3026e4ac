"""Which schemes a design measures, against the variance that they leave by brute force."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnsplit.ground.errors import NoiseError
from dnnsplit.noise.design import RESIDUAL, design_schemes
from dnnsplit.noise.models import NoiseSamples
from dnnsplit.noise.schemes import all_schemes, pack_schemes


def measured(rows, weights):
    """Samples of these schemes; powers of the layers' noise add up."""
    rows = np.asarray(rows)
    names = [f"n{i}" for i in range(rows.shape[1])]
    return NoiseSamples(pd.DataFrame(rows, columns=names).assign(noise=np.sqrt(rows @ np.square(weights))))


def first_stage(weights):
    return measured(design_schemes(len(weights)), weights)


def variance_left(rows, weights):
    """Mean posterior variance over all schemes, straight from its definition with one feature per product of layers."""
    every = all_schemes(len(weights))
    products = all_schemes(len(weights)).astype(bool)

    def features(q):
        signs = 2.0 * np.asarray(q) - 1.0
        return np.stack([signs[:, p].prod(axis=1) for p in products], axis=1)

    share = np.asarray(weights) / np.sum(weights)
    prior = np.diag([share[p].prod() for p in products])
    seen = features(np.vstack([np.zeros(len(weights)), rows]))
    posterior = prior - prior @ seen.T @ np.linalg.solve(seen @ prior @ seen.T + RESIDUAL * np.eye(len(seen)), seen @ prior)
    return np.mean(np.einsum("ij,jk,ik->i", features(every), posterior, features(every)))


def test_first_each_layer_alone_and_all_together():
    assert design_schemes(3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    assert design_schemes(1, budget=1).tolist() == [[1]]


def test_what_the_first_stage_lacks_comes_before_anything_else():
    known = measured([[0, 0, 0], [1, 0, 0], [1, 1, 0]], [1, 1, 1])
    assert design_schemes(3, 6, known).tolist() == [[0, 1, 0], [0, 0, 1], [1, 1, 1]]


def test_a_spent_budget_asks_for_nothing():
    known = first_stage([1.0, 2.0, 3.0])
    assert design_schemes(3, 4, known).shape == (0, 3)
    assert len(design_schemes(3, 99, known)) == 3  # of 7 schemes that quantize something 4 are known


def test_the_design_leaves_less_variance_than_random_schemes():
    weights = [0.5, 0.4, 0.4, 0.1, 0.05, 0.3]
    known = first_stage(weights)
    chosen = design_schemes(6, 14, known)
    ours = variance_left(np.vstack([known.schemes, chosen]), weights)
    others = all_schemes(6)[1:]
    others = others[~np.isin(pack_schemes(others), pack_schemes(known.schemes))]
    rng = np.random.default_rng(0)
    theirs = [
        variance_left(np.vstack([known.schemes, others[rng.choice(len(others), 7, replace=False)]]), weights) for _ in range(200)
    ]
    assert ours < min(theirs)


def test_the_last_point_is_the_best_of_all():
    weights = [1.0, 2.0, 0.5, 1.5]
    known = first_stage(weights)
    chosen = design_schemes(4, 6, known)
    rest = [q for q in all_schemes(4)[1:] if not (known.schemes == q).all(axis=1).any()]
    ours = variance_left(np.vstack([known.schemes, chosen]), weights)
    # The candidates leave out what is known already, so that their mean is not quite the mean over all schemes.
    assert ours <= min(variance_left(np.vstack([known.schemes, [q]]), weights) for q in rest) * 1.02


def test_pairs_of_noisy_layers_are_told_apart_first():
    known = first_stage([1.0, 1.0, 1.0, 1e-6, 1e-6])
    assert {tuple(q[:3]) for q in design_schemes(5, 9, known).tolist()} == {(1, 1, 0), (1, 0, 1), (0, 1, 1)}


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=7), st.integers(0, 30), st.integers(0, 3))
def test_a_design_is_new_distinct_and_within_budget(weights, more, seed):
    known = first_stage(weights)
    budget = len(weights) + 1 + more
    rows = design_schemes(len(weights), budget, known, seed)
    keys = pack_schemes(np.vstack([known.schemes, rows])).tolist()
    assert len(set(keys)) == len(keys) == min(budget, 2 ** len(weights) - 1)
    assert 0 not in keys
    assert rows.dtype == np.int8
    assert (design_schemes(len(weights), budget, known, seed) == rows).all()


def test_many_layers_have_random_candidates(monkeypatch):
    monkeypatch.setattr("dnnsplit.noise.design.CANDIDATES", 200)
    weights = np.linspace(0.1, 1, 25)
    rows = design_schemes(25, 40, first_stage(weights), seed=1)
    assert rows.shape == (14, 25)
    assert (rows != design_schemes(25, 40, first_stage(weights), seed=2)).any()


@pytest.mark.parametrize("budget", [12, 0, -1, 40.5, "40", True, None])
def test_a_budget_below_the_first_stage_is_refused(budget):
    with pytest.raises(NoiseError, match="12 layers need 13 or more"):
        design_schemes(12, budget)


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(NoiseError, match="of 3 layers, the design is for 4"):
        design_schemes(4, 9, first_stage([1, 1, 1]))
    with pytest.raises(NoiseError, match="no layer has any noise alone"):
        design_schemes(3, 6, first_stage([0, 0, 0]))
