"""Predicted beside measured, for every term of a plan's latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from dnnsplit.codecs.plain import INT8, PLAIN
from dnnsplit.cutting.bundle import Bundle
from dnnsplit.deployment.testbed.testbed import LatencyTest
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError

COLUMNS = ["term", "predicted_s", "measured_s", "error_%"]


def compare(test: LatencyTest, bundle: Bundle) -> pd.DataFrame:
    """Set the terms of the plan that a bundle was cut by beside what a latency test of it measured.

    A plan charges what two servers do with a tensor that crosses to its link; they do it while they compute. On a test-bed
    that emulates links, what a transfer was planned to take beyond its link is therefore added to computing on its target. What a
    tensor takes in a form is more or less from image to image, and the link is emulated for what it takes. Reading encoded images
    that the client sent is not in the plan.

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

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> bundle = ds.cut(graph, ds.split(graph, network, times, noise, max_noise=0.05), "build", check=False)
    >>> with ds.testbed(bundle, network, times.slowdown) as client:
    ...     test = ds.latency_test(client, {"images": ds.scenes.images(1)}, repeats=2, progress=False)
    >>> list(ds.compare(test, bundle))
    ['term', 'predicted_s', 'measured_s', 'error_%']
    """
    check_arguments(compare, locals())
    cost = bundle.plan.get("cost")
    if not cost:
        message = f"the bundle of {bundle.folder} was not cut by a plan, so nothing is predicted"
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
        tensor, source, target = way = planned["tensor"], planned["source"], planned["target"]
        form, found = planned.get("form", PLAIN), sent.pop(way, {})
        came = found.get(form) or next(iter(found.values()), None)  # of what did not fit its form there may be another
        if came is None:
            continue  # a move inside a server that is not emulated there
        coded = form not in (PLAIN, INT8)
        # what the source reads back of an input is on no link
        crossed = found.get(PLAIN) if coded and source == target else came
        if coded:
            rows.append((f"write {tensor} as {form} on {source}", planned["encode_s"], came["encode_s"]))
        if crossed is not None:
            link_s = _link_s(planned, crossed)
            compute[target] += planned["seconds"] - link_s
            rows.append((f"{tensor}: {source} -> {target}", link_s, crossed["seconds"]))
        if coded:
            rows.append((f"read {tensor} as {form} on {target}", planned["decode_s"], came["decode_s"]))
    images = [(way, form, row) for way, found in sent.items() for form, row in found.items() if way[1] == way[2]]
    rows += [(f"read {tensor} as {form} on {server}", 0.0, row["decode_s"]) for (tensor, server, _), form, row in images]
    measured = parts.groupby("source")["seconds"].sum()
    terms = [(f"compute on {name}", s, measured[name]) for name, s in compute.items() if name in measured]
    terms += rows
    inside = math.fsum(term[2] for term in terms)
    terms += [("hand-over", 0.0, test.median_s - inside), ("latency", cost["latency_s"], test.median_s)]
    table = pd.DataFrame(terms, columns=COLUMNS[:3])
    table["error_%"] = 100.0 * (table["predicted_s"] / table["measured_s"] - 1.0)
    return table


def _link_s(planned: Mapping[str, Any], crossed: Mapping[Any, Any]) -> float:
    """Return what a link was planned to take, without what servers do: as emulated, for as many bytes as were planned [s]."""
    paced_s: float = crossed["paced_s"]
    if not paced_s or not crossed["size_bytes"]:
        return paced_s or float(planned["seconds"])
    share = float(planned["size_bytes"] / crossed["size_bytes"])
    return paced_s + (share - 1.0) * (paced_s - float(crossed["latency_s"]))
