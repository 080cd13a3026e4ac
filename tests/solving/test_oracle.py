"""An independent solver of cost-function networks finds the same optima where brute force cannot go."""

import pytest
from helpers.cost_networks import least_latency, question

import dnnsplit as ds

pytest.importorskip("pytoulbar2")

# layers, servers, q bits
QUESTIONS = [(30, 2, 0), (30, 6, 0), (60, 4, 0), (120, 3, 0), (300, 3, 0), (300, 6, 0)]
QUESTIONS += [(30, 3, 6), (80, 2, 8), (120, 3, 10), (40, 5, 8)]


@pytest.mark.parametrize("shape", QUESTIONS)
def test_elimination_and_the_tight_milp_find_the_optimum_of_another_groups_solver(shape):
    problem, terms, most = question(*shape, seed=sum(shape))
    best = least_latency(*problem[:3], terms, most)
    asked = {"max_noise": 1e-3 * most} if terms else {}
    plan = ds.split(*problem, method="elimination", **asked)
    assert plan.latency_s == pytest.approx(best, rel=1e-7)
    if shape[0] * shape[1] ** 2 <= 1500:
        assert ds.split(*problem, method="milp", **asked).latency_s == pytest.approx(best, rel=1e-6)


def test_the_oracle_agrees_with_numbers_by_hand():
    from helpers.problems import brute_force, by_hand

    assert least_latency(*by_hand()) == pytest.approx(brute_force(*by_hand()), rel=1e-8)
