"""Brute force, elimination and both MILPs give the same answer to random questions with every feature a question can have.

A thousand of them: ``python -m pytest tests/solving/test_agreement.py --agreement 1000``
"""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from helpers.agreement import Every, differences
from helpers.random_questions import Recipe, random_question, recipes
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

import dnnsplit as ds

# Questions on which the presolve of HiGHS 1.13 fails, or calls a plan optimal that is above its own bound, and that of 1.16
# calls infeasible what is not.
HARD = (
    Recipe(5, 3, 4, 855154, True, True, True, *[False] * 8, "latency", "between", 0.8, 0.5),
    Recipe(4, 3, 4, 5156, True, False, False, False, True, *[False] * 6, "latency", "between", 0.2, 0.2),
    Recipe(7, 2, 3, 280, True, False, False, False, True, False, True, *[False] * 4, "latency", "between", None, 0.5),
)


def test_all_methods_agree(pytestconfig, capsys):
    told = pytestconfig.getoption("--agreement")
    count = told or 200
    asked, had, most = set(), Counter(), Counter()
    with capsys.disabled(), tqdm(total=count, unit="question", disable=not told) as bar:

        @settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
        @example(recipe=HARD[0])
        @example(recipe=HARD[1])
        @example(recipe=HARD[2])
        @given(recipe=recipes())
        def agree(recipe):
            assume(recipe not in asked)  # hypothesis likes to repeat itself
            found, there = differences(recipe)
            asked.add(recipe)
            had.update(name for name in there if there[name])
            for name, difference in found.items():
                most[name] = max(most[name], difference)
            bar.update()

        agree()
    assert len(asked) >= count
    if told:
        lines = [f"{len(asked)} different random questions, and every method gives the answer of brute force"]
        lines += [f"{number:8} with {name}" for name, number in had.most_common()]
        lines += [f"{value:8.1e} greatest relative difference from brute force: {name}" for name, value in most.items()]
        with capsys.disabled():
            print("", *lines, sep="\n")


@settings(deadline=None, max_examples=25)
@given(recipe=recipes(), seed=st.integers(0, 2**32 - 1))
def test_brute_force_prices_like_evaluate(recipe, seed):
    problem, options = random_question(recipe)
    every = Every(problem, options)
    rng = np.random.default_rng(seed)
    network = problem["network"].without(*options.get("forbid_links", ()))
    for row, column in zip(rng.integers(0, len(every.schemes), 8), rng.integers(0, every.x.shape[1], 8), strict=True):
        assignment = {name: every.hosts[k] for name, k in zip(every.names, every.x[:, column], strict=True)}
        quantized = [name for name, bit in zip(every.bits, every.schemes[row], strict=True) if bit]
        try:
            cost = ds.evaluate(problem["graph"], network, problem["times"], assignment, quantized)
        except ds.InfeasibleError:
            assert every.unlinked[column]
            continue
        assert not every.unlinked[column]
        for name in ("latency_s", "energy_j", "device_energy_j"):
            assert getattr(every, name)[row, column] == pytest.approx(getattr(cost, name), rel=1e-12)
        assert [*every.held[:, row, column]] == pytest.approx([*cost.weight_bytes.values()])


WRITE = """
import sys
import dnnsplit as ds
from dnnsplit.solving.milp.formulations import FORMULATIONS
from dnnsplit.solving.milp.solvers import build
from dnnsplit.solving.question import ask
from dnnsplit.solving.request import Request
for formulation in FORMULATIONS:
    question = ask(*ds.examples.random_problem(12, 3, 4), Request(max_noise=0.1, max_device_energy_j=1.0, max_energy_j=2.0))
    model = FORMULATIONS[formulation](question.problem)
    programme, _, _ = build(model, question.objective.weights, question.noise, question.limits)
    programme.writeLP(f"{sys.argv[1]}/{formulation}.lp")
"""


def test_two_processes_write_the_same_programme(tmp_path):
    texts = []
    for seed in ("1", "2"):  # of Python's hashes, which decide the order of sets
        (tmp_path / seed).mkdir()
        subprocess.run([sys.executable, "-c", WRITE, tmp_path / seed], env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
        texts.append([path.read_text() for path in sorted((tmp_path / seed).iterdir())])
    assert len(texts[0]) == 2
    assert texts[0] == texts[1]
