"""How well few measurements predict the noise, and what verified plans lose, in one run; CPU seconds of one thread.

python bench/noise.py                       the shipped model's exhaustive table
python bench/noise.py --samples TABLE.csv   also a table of random schemes: 0/1 columns, the last column is the noise
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import dnnsplit as ds
from dnnsplit.design import design_schemes
from dnnsplit.regression import noise_scores
from dnnsplit.schemes import all_schemes, pack_schemes
from dnnsplit.verification import verify

SHARES = (0.1, 0.2, 0.4, 0.7)  # noise limits, as shares of the largest noise


def read(path: Path) -> ds.NoiseSamples:
    """Any table of 0/1 columns whose last column is the noise; a first column of row numbers is left out."""
    frame = pd.read_csv(path, comment="#")
    frame = frame[[c for c in frame if not str(c).startswith("Unnamed")]]
    return ds.NoiseSamples(frame.rename(columns={frame.columns[-1]: "noise"}).drop_duplicates(list(frame.columns[:-1])))


def designed(samples: ds.NoiseSamples, budget: int, seed: int = 0) -> np.ndarray:
    """Rows of an exhaustive table that a design of that budget measures."""
    keys, known = pack_schemes(samples.schemes), None
    for _ in range(2):
        rows = pack_schemes(design_schemes(len(samples.layers), budget, known, seed))
        chosen = np.isin(keys, rows) | (np.isin(keys, pack_schemes(known.schemes)) if known else False)
        known = ds.NoiseSamples(samples.frame[chosen])
    return chosen


def score(what: str, samples: ds.NoiseSamples, chosen: np.ndarray, target: str = "", **options: object) -> dict[str, object]:
    """Fit to the chosen rows, score on the others."""
    train, test = (ds.NoiseSamples(samples.frame[rows]) for rows in (chosen, ~chosen))
    started = time.process_time()
    model = ds.fit_noise(train, **options)
    cpu_s = time.process_time() - started
    scores = noise_scores(test.noise, model.predict(test.schemes))
    cross = {f"cv {name}": model.scores[name] for name in ("R2", "MAPE_%")}
    return {"what": what, "fitted to": int(chosen.sum()), **scores, "to reach": target, **cross, "fit, cpu_s": cpu_s}


def first(samples: ds.NoiseSamples, count: int) -> np.ndarray:
    """The first rows."""
    return np.arange(len(samples.noise)) < count


def random(samples: ds.NoiseSamples, count: int) -> np.ndarray:
    """Random rows."""
    return np.isin(np.arange(len(samples.noise)), np.random.default_rng(0).permutation(len(samples.noise))[:count])


def plans(samples: ds.NoiseSamples, rows: np.ndarray, fit: dict[str, object], number: int, checked: bool) -> pd.DataFrame:
    """Best schemes for random gains of the layers (log-normal) within each limit, against the optimum by the whole table."""
    known = ds.NoiseSamples(samples.frame[rows])
    noise = ds.fit_noise(known, **fit)
    truth, schemes = ds.NoiseModel.measured(samples).every(), all_schemes(len(samples.layers))
    measure = ds.NoiseModel.measured(samples).of
    found = []
    for seed in tqdm(range(number), desc=f"{noise.kind}{', verified' if checked else ''}"):
        gains = schemes @ np.random.default_rng(seed).lognormal(size=schemes.shape[1])
        for share in SHARES:
            limit = share * truth.max()
            choose = chooser(samples.layers, schemes, gains, limit)
            best = gains[truth <= limit].max()
            if checked:
                answer = verify(noise, measure, choose, limit, known)
                names, extra = answer.quantized, len(answer.measured)
            else:
                names, extra = choose(noise), 0
            gain = gains[sum(1 << j for j, name in enumerate(samples.layers) if name in names)]
            loss = max(0.0, 1 - gain / best) if best > 0 else 0.0  # a violation can gain more than is allowed
            found.append([share, measure(names) > limit, 100 * loss, len(known.noise) + extra])
    table = pd.DataFrame(found, columns=["limit", "violations", "loss_%", "measurements"])
    total = table.assign(limit="all")
    return pd.concat([table, total]).groupby("limit").agg(
        plans=("loss_%", "size"), violations=("violations", "sum"), mean_loss=("loss_%", "mean"), worst_loss=("loss_%", "max"),
        measurements=("measurements", "mean"), most_measurements=("measurements", "max"),
    )  # fmt: skip


def chooser(
    layers: tuple[str, ...], schemes: np.ndarray, gains: np.ndarray, limit: float
) -> Callable[[ds.NoiseModel], list[str]]:
    """The scheme of most gain within the limit by a noise model."""

    def choose(noise: ds.NoiseModel) -> list[str]:
        best = int(np.where(noise.every() <= limit, gains, -1.0).argmax())
        return [name for name, bit in zip(layers, schemes[best], strict=True) if bit]

    return choose


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--plans", type=int, default=200, help="random vectors of gains")
    options = parser.parse_args()
    shipped = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / f"{ds.examples.SHIPPED}.csv")
    shipped = ds.NoiseSamples(shipped.frame[shipped.schemes.any(axis=1)], shipped.origin)
    goal = "R2 .99, MAPE 3, low 6"
    rows = [score(f"shipped, degree {d}, random", shipped, random(shipped, 1000), degree=d) for d in (2, 3)]
    started = time.process_time()
    design = designed(shipped, 40)
    print(f"design of 40 schemes: {time.process_time() - started:.2f} CPU s")
    rows.append(score("shipped, gp, designed", shipped, design, goal, model="gp"))
    other = [score("", shipped, designed(shipped, 40, seed), goal, model="gp") for seed in range(1, 6)]
    rows.append(
        pd.DataFrame(other).median(numeric_only=True).to_dict() | {"what": "  median of 5 other designs", "to reach": goal}
    )
    rows.append(score("shipped, gp, random", shipped, random(shipped, 40), model="gp"))
    rows += [score("shipped, link degree 2, designed", shipped, design, model="link")]
    rows += [score("shipped, link degree 2, random", shipped, random(shipped, 200), model="link")]
    if options.samples:
        given = read(options.samples)
        given = ds.NoiseSamples(given.frame[given.schemes.any(axis=1)])
        name = options.samples.stem
        rows.append(score(f"{name}, gp, first rows", given, first(given, 60), "R2 .99", model="gp"))
        rows.append(score(f"{name}, link, first rows", given, first(given, 60), model="link"))
        rows += [score(f"{name}, degree {d}, first rows", given, first(given, 500), degree=d) for d in (2, 3)]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))
    print("\nplans, to reach: 0 violations, mean loss 2 %, at most 75 measurements each")
    cases = [(f"degree {d} on 1000 random schemes", random(shipped, 1000), {"degree": d}, False) for d in (2, 3)]
    cases += [
        (f"{model} on 40 designed schemes{', verified' if checked else ''}", design, {"model": model}, checked)
        for model in ("gp", "link")
        for checked in (False, True)
    ]
    for title, chosen, fit, checked in cases:
        print(f"\n{title}")
        print(plans(shipped, chosen, fit, options.plans, checked).to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
