"""What measuring costs, how well few measurements predict the noise, and what verified plans lose, in one run.

CPU seconds of one thread; the machine may be busy.

python bench/noise.py                       the shipped model's exhaustive table
python bench/noise.py --samples TABLE.csv   also a table of random schemes: 0/1 columns, the last column is the noise
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts
from dnnsplit.graph.external_data import session_of
from dnnsplit.noise.design import design_schemes
from dnnsplit.noise.fit import noise_scores
from dnnsplit.noise.meter import noise_meter
from dnnsplit.noise.schemes import all_schemes, names_of, pack, pack_schemes, row_of, sample_schemes
from dnnsplit.noise.verification import verify
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import quantize_layer

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


def costs() -> pd.DataFrame:
    """CPU seconds of the shipped model's schemes on one image, against float32 runs of the whole model beside it."""
    graph = ds.examples.yolo11n().graph
    model, pictures = graph.model, ds.examples.load_images(count=4, seed=2)
    calibration = ds.calibrate(graph, ds.examples.load_images(count=4, seed=1))
    float32, feed = session_of(model.proto), {model.inputs[0]: pictures[:1]}

    def runs(count: int = 100) -> list[float]:
        return [cpu(lambda: float32.run(None, feed)) for _ in range(count)]

    def build(names: tuple[str, ...]) -> None:
        int8 = {name: quantize_layer(graph, name, calibration) for name in names}
        session_of(build_part(graph, graph.layer_names, model.outputs, int8))

    options = {"layers": 12, "calibration": calibration, "workers": 1, "progress": False}
    around = runs()  # float32 runs before, between and after: a machine that slows down slows both
    cases = []
    for title, detections in (("all 4096 schemes", False), ("  with the agreement of detections", True)):
        seconds = cpu(lambda d=detections: ds.measure_noise(graph, pictures[:1], detections=d, **options))
        around += runs()
        cases.append((title, seconds, seconds / 4096))
    few = cpu(lambda: ds.measure_noise(graph, pictures, budget=40, **options))
    cases.append(("40 designed schemes, 4 images", few, few / 160))
    run = float(np.median(around))
    rows = [{"what": title, "cpu_s": total, "float32 runs each": each / run} for title, total, each in cases]
    rows[0]["to reach"] = "0.35"
    built = [cpu(lambda s=scheme: build(tuple(n for n, bit in zip(graph.quantizable(12), s, strict=True) if bit)))
             for scheme in sample_schemes(12, 24)[1:]]  # fmt: skip
    rows.insert(0, {"what": "one float32 run", "cpu_s": run, "float32 runs each": 1.0})
    title = "build one scheme as a session of its own"
    rows.append({"what": title, "cpu_s": float(np.mean(built)), "float32 runs each": np.mean(built) / run, "to reach": "0.2 s"})
    return pd.DataFrame(rows).fillna("")


def deployed(samples: ds.NoiseSamples) -> pd.DataFrame:
    """Noise of plans on the parts that are deployed, run here one after the other, against the table."""
    graph, network, times, table = ds.examples.yolo11n()
    pictures, front = ds.examples.load_images(count=samples.origin["images"], seed=2), ds.pareto(graph, network, times, table)
    meter = noise_meter(graph, pictures, Calibration.from_json(samples.origin["calibration"]), table.layers)
    (name,), plain = meter.outputs(()), next(iter(meter.outputs(()).values()))
    feed = graph.model.inputs[0]
    rows = []
    for share in SHARES:
        plan = front.at(share * samples.noise.max())
        with tempfile.TemporaryDirectory() as folder:
            bundle = ds.cut(graph, plan, folder)
            found = np.concatenate([run_parts(bundle, {feed: picture[None]})[name] for picture in pictures])
        rho = np.mean([np.abs(a - b).mean(dtype=float) for a, b in zip(plain, found, strict=True)])
        off = abs(rho / plan.noise - 1) if plan.noise else float(rho > 0)
        rows.append({"limit": share, "parts": len(bundle.parts), "int8 layers": len(plan.quantized), "table": plan.noise,
                     "on the parts": rho, "off_%": 100 * off, "to reach": "1 %"})  # fmt: skip
    return pd.DataFrame(rows)


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of a call, of all threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


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
            gain = gains[pack(row_of(samples.layers, names))]
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
) -> Callable[[ds.NoiseModel], tuple[str, ...]]:
    """The scheme of most gain within the limit by a noise model."""

    def choose(noise: ds.NoiseModel) -> tuple[str, ...]:
        best = int(np.where(noise.every() <= limit, gains, -1.0).argmax())
        return names_of(layers, schemes[best])

    return choose


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--plans", type=int, default=200, help="random vectors of gains")
    options = parser.parse_args()
    table = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / f"{ds.examples.SHIPPED}.first.csv")
    print(costs().to_string(index=False, float_format="{:.3g}".format), end="\n\n")
    print(deployed(table).to_string(index=False, float_format="{:.4g}".format), end="\n\n")
    shipped = table.quantizing
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
        given = given.quantizing
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
