"""Predicted beside measured, for every term of a plan's latency."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dnnsplit.codecs.plain import INT8, PLAIN
from dnnsplit.cutting.bundle import Bundle
from dnnsplit.deployment.testbed.testbed import LatencyTest
from dnnsplit.ground.errors import DeployError

COLUMNS = ["term", "predicted_s", "measured_s", "error_%"]


def compare(test: LatencyTest, bundle: Bundle) -> pd.DataFrame:
    """Set the terms of the plan that a bundle was cut by beside what a latency test of it measured.

    A plan charges what two servers do with a tensor that crosses to its link; they do it while they compute. On a test-bed
    that emulates links, what a transfer was planned to take beyond its link is therefore added to computing on its target. What a
    tensor takes in a form is more or less from image to image, and the link is emulated for what it takes.

    Parameters
    ----------
    test : LatencyTest
        Of a deployment of `bundle`.
    bundle : Bundle
        With its plan.

    Returns
    -------
    pd.DataFrame
        term ("compute on <server>", "write <tensor> as <form> on <server>", "<tensor>: <source> -> <target>", "read <tensor> as
        <form> on <server>", "hand-over" for what is in none of them, negative where branches ran side by side, and "latency"),
        predicted_s, measured_s (medians) [s], error_% of the prediction.

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
    sent: dict[tuple[str, str, str], dict[str, dict[Any, Any]]] = {}
    for row in transfers.to_dict("records"):
        way = tensor_of.get(row["name"], row["name"]), row["source"], row["target"]
        sent.setdefault(way, {})[row["form"]] = row
    compute = dict(cost["compute_s"])
    rows = []
    for planned in cost["transfers"]:
        way, form = (planned["tensor"], planned["source"], planned["target"]), planned.get("form", PLAIN)
        found = sent.get(way, {})
        came = found.get(form) or next(iter(found.values()), None)  # of what did not fit its form there may be another
        if came is None:
            continue  # a move inside a server that is not emulated there
        coded = form not in (PLAIN, INT8)
        if coded:
            rows.append((f"write {way[0]} as {form} on {way[1]}", planned["encode_s"], came["encode_s"]))
        crossed = (
            came if way[1] != way[2] or not coded else found.get(PLAIN)
        )  # inside of the source, reading back has a row of its own
        if crossed is not None:
            link_s = crossed["paced_s"] or planned["seconds"]
            if crossed["paced_s"] and crossed["size_bytes"]:  # as many bytes as were planned
                share = planned["size_bytes"] / crossed["size_bytes"] - 1.0
                link_s += share * (crossed["paced_s"] - crossed["latency_s"])
            compute[way[2]] += planned["seconds"] - link_s
            rows.append((f"{way[0]}: {way[1]} -> {way[2]}", link_s, crossed["seconds"]))
        if coded:
            rows.append((f"read {way[0]} as {form} on {way[2]}", planned["decode_s"], came["decode_s"]))
    measured = parts.groupby("source")["seconds"].sum()
    terms = [(f"compute on {name}", s, measured[name]) for name, s in compute.items() if name in measured]
    terms += rows
    inside = math.fsum(term[2] for term in terms)
    terms += [("hand-over", 0.0, test.median_s - inside), ("latency", cost["latency_s"], test.median_s)]
    table = pd.DataFrame(terms, columns=COLUMNS[:3])
    table["error_%"] = 100.0 * (table["predicted_s"] / table["measured_s"] - 1.0)
    return table
