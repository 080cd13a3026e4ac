"""The results of a sweep in one paragraph: what to do, what it gains over what else one would do, and how sure that is."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.tolerance import within
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.solving.plan import Plan
from dnnsplit.studies.regime import SPLIT

UNITS = {"latency_s": "s", "energy_j": "J"}


def headline(
    name: str,
    network: Network,
    plan: Plan,
    baselines: pd.DataFrame,
    regimes: pd.DataFrame,
    tests: pd.DataFrame | None = None,
    beside: pd.DataFrame | None = None,
) -> str:
    """Return a paragraph with the numbers that one should know first, in Markdown.

    Parameters
    ----------
    name : str
        Of the model.
    network : Network
        That the plan is for.
    plan : Plan
        The best one at some limit.
    baselines : pd.DataFrame
        From `single_servers` for this network: what a practitioner would do instead.
    regimes : pd.DataFrame
        From `regimes`, with a column topology.
    tests : pd.DataFrame | None, optional
        From `latency_tests`, on emulated servers and links; where one row is of this plan, what it took is told.
    beside : pd.DataFrame | None, optional
        The same of other ways to run the model; where one row is of the best server alone, what it took is told.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> from dnnsplit.studies.headline import headline
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> plan = ds.split(graph, network, times, noise, max_noise=0.2)
    >>> alone = ds.single_servers(graph, network, times, noise)
    >>> found = ds.regimes(graph, network, times, noise, max_noise=[0.0, 0.2], progress=False).assign(topology="device-edge")
    >>> text = headline("tiny", network, plan, alone, found)
    >>> print(text.partition(", with")[0])
    **tiny on device + edge: split it over device + edge.** Within the noise limit 0.2 the best plan takes 218.2 ms
    """
    check_arguments(headline, locals())
    told = [
        f"**{name} on {' + '.join(network.server_names)}: {_verdict(plan)}.**", _gain(plan, baselines, tests, beside),
        _pays(regimes),
        "" if tests is None else _errors(tests), _sure(plan, tests),
    ]  # fmt: skip
    return " ".join(filter(None, told))


def _verdict(plan: Plan) -> str:
    if len(plan.servers) > 1:
        return f"split it over {' + '.join(plan.servers)}"
    return f"do not split, run all of it on {plan.servers[0]}"


def _gain(plan: Plan, baselines: pd.DataFrame, tests: pd.DataFrame | None, beside: pd.DataFrame | None) -> str:
    """The plan against the best server alone, as planned and as measured."""
    limit, confidence = plan.limits.get("max_noise"), plan.limits.get("confidence")
    by = plan.objective_name if plan.objective_name in UNITS else "latency_s"
    took = getattr(plan, by)
    limited = "Without a limit on the noise" if limit is None else f"Within the noise limit {limit:g}"
    sure = "" if limit is None or confidence is None else f", kept with {100 * confidence:g} % confidence,"
    told = f"{limited}{sure} the best plan takes {show(took, UNITS[by])}, with {len(plan.quantized)} layers in int8"
    noise = baselines["noise" if confidence is None else "noise_upper"]
    rows = baselines[within(noise, math.inf if limit is None else limit)].sort_values(by).to_dict("records")
    if not rows:
        return f"{told}; no server alone keeps the limit."
    best = rows[0]
    form = "" if best["server"] == plan.source else f" that gets the input as {best['source_form']}"
    told += f"; the best server alone, {best['server']} in float32{form}, takes {show(best[by], UNITS[by])}, "
    told += f"{_compared(best[by], took)}."
    if tests is None or beside is None or by != "latency_s":
        return told
    ran = tests[(tests["max_noise"] == limit) & np.isclose(tests["predicted_s"], plan.latency_s, rtol=1e-9)]
    alike = beside[(beside["servers"] == best["server"]) & (beside["source_form"] == best["source_form"])]
    if ran.empty or alike.empty:
        return told
    return f"{told} Measured, they take {show(ran['latency_s'].iloc[0], 's')} and {show(alike['latency_s'].iloc[-1], 's')}."


def _compared(other: float, this: float) -> str:
    ratio = other / this
    if ratio >= 1.5:
        return f"{ratio:.2g} x as much"
    return f"{abs(100 * ratio - 100):.1f} % {'more' if ratio >= 1 else 'less'}"


def _pays(regimes: pd.DataFrame) -> str:
    """Where a split is best, and what it gains there at most."""
    speeds, limits = regimes["bandwidth_bytes_per_s"], regimes["max_noise"]
    asked = f"bandwidths from {show(speeds.min(), 'B/s')} to {show(speeds.max(), 'B/s')} and noise limits from "
    told = []
    for topology, table in regimes.groupby("topology", sort=False):
        split = table[table["best"] == SPLIT].sort_values("gain", na_position="first")
        most = f"{len(split)} of {len(table)} points" if len(split) else f"none of {len(table)} points"
        if split["gain"].notna().any():
            (best,) = split.tail(1).to_dict("records")
            most += f" (up to {100 * best['gain']:.0f} % less latency than the best server alone, int8 included, at "
            most += f"{show(best['bandwidth_bytes_per_s'], 'B/s')} and {best['max_noise']:.3g})"
        told.append(f"at {most} on {str(topology).replace('-', ' + ')}")
    return f"At {asked}{limits.min():.3g} to {limits.max():.3g}, a split is best {' and '.join(told)}."


def _errors(tests: pd.DataFrame) -> str:
    errors, worst = tests["error_%"], tests["error_%"].abs().max()
    told = (
        f"Predicted latencies of the {len(tests)} plans that were cut and run are off by {errors.abs().mean():.1f} % on average"
    )
    return f"{told} and {worst:.1f} % at most ({errors.mean():+.2f} % with their signs)."


def _sure(plan: Plan, tests: pd.DataFrame | None) -> str:
    """What is emulated, scaled or untrained."""
    ran = "" if tests is None else "Servers and links of these runs are emulated on one machine. "
    weights = [] if tests is None else [text for text in tests["weights"].dropna().unique() if text]
    return f"{ran}Times behind the plans are {plan.times_origin}." + "".join(f" Weights: {text}." for text in weights)
