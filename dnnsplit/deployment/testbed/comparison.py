"""Predicted beside measured, for every term of a plan's latency."""

from __future__ import annotations

import math

import pandas as pd

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.deployment.testbed.testbed import LatencyTest
from dnnsplit.ground.errors import DeployError

COLUMNS = ["term", "predicted_s", "measured_s", "error_%"]


def compare(test: LatencyTest, bundle: Bundle) -> pd.DataFrame:
    """Set the terms of the plan that a bundle was cut by beside what a latency test of it measured.

    A plan charges what two servers do with a tensor that crosses to its link; they do it while they compute. On a test-bed
    that emulates links, what a transfer was planned to take beyond its link is therefore added to computing on its target.

    Parameters
    ----------
    test : LatencyTest
        Of a deployment of `bundle`.
    bundle : Bundle
        With its plan.

    Returns
    -------
    pd.DataFrame
        term ("compute on <server>", "<tensor>: <source> -> <target>", "hand-over" for what is in none of them, negative where
        branches ran side by side, and "latency"), predicted_s, measured_s (medians) [s], error_% of the prediction.

    Raises
    ------
    DeployError
        The bundle has no plan.
    """
    cost = bundle.plan.get("cost")
    if not cost:
        message = f"{bundle} was not cut by a plan, so nothing is predicted"
        raise DeployError(message)
    frame = test.frame
    parts, transfers = (frame[frame["kind"] == kind] for kind in ("part", "transfer"))
    tensor_of = {wire.name: wire.tensor or wire.name for wire in bundle.inputs + bundle.wires}
    sent = {(tensor_of.get(row["name"], row["name"]), row["source"], row["target"]): row for row in transfers.to_dict("records")}
    compute = dict(cost["compute_s"])
    rows = []
    for planned in cost["transfers"]:
        key = planned["tensor"], planned["source"], planned["target"]
        if key not in sent:
            continue  # a move inside a server that is not emulated there
        link_s = sent[key]["paced_s"] or planned["seconds"]
        compute[key[2]] += planned["seconds"] - link_s
        rows.append((f"{key[0]}: {key[1]} -> {key[2]}", link_s, sent[key]["seconds"]))
    measured = parts.groupby("source")["seconds"].sum()
    terms = [(f"compute on {name}", s, measured[name]) for name, s in compute.items() if name in measured]
    terms += rows
    inside = math.fsum(term[2] for term in terms)
    terms += [("hand-over", 0.0, test.median_s - inside), ("latency", cost["latency_s"], test.median_s)]
    table = pd.DataFrame(terms, columns=COLUMNS[:3])
    table["error_%"] = 100.0 * (table["predicted_s"] / table["measured_s"] - 1.0)
    return table
