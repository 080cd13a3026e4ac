"""Cut all plans that are optimal at one bandwidth of a link or another, for stages that change between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dnnsplit.bandwidth import BandwidthPlans
from dnnsplit.calibration import Calibration
from dnnsplit.cutting import cut
from dnnsplit.deploy.adaptive import PlanSet, plan_folder
from dnnsplit.errors import OptionError
from dnnsplit.network import Network


def cut_plans(
    model_path: str | Path,
    plans: BandwidthPlans,
    network: Network,
    out: str | Path,
    calibration: Calibration | None = None,
    check: bool = True,
) -> PlanSet:
    """Write the parts of every plan; `serve` takes the folder in place of a bundle.

    Its stages measure the link by the tensors that cross it, or by messages of their own while no plan sends any, and start
    each request by the plan that is optimal for what they measure.

    Parameters
    ----------
    model_path : the ONNX file the plans were made for
    plans : from `bandwidths`, for a link that starts at the network's source
    network : the latency of the link is taken from it
    out : folder; made if missing
    calibration, check : as for `cut`

    Raises
    ------
    OptionError : the link starts elsewhere, so that the stage where requests arrive cannot measure it
    DeployError : see `cut`
    """
    source, target = plans.links[0]
    if source != network.source:
        raise OptionError(f"the bandwidth of {source!r} -> {target!r} cannot be followed; take a link from {network.source!r}")
    link = network.link(source, target)
    if link is None:
        raise OptionError(f"the network has no link {source!r} -> {target!r}")
    out, bundles = Path(out), []
    for index, plan in enumerate(plans.plans):
        bundle = cut(model_path, plan, out / plan_folder(index), calibration, check)
        bundles.append(replace(bundle, model_name=f"{bundle.model_name}@{index}"))
        bundles[-1].save()
    name = bundles[0].model_name.rpartition("@")[0]
    digests = tuple(bundle.digest for bundle in bundles)
    found = PlanSet(out, name, (source, target), link.latency_s, plans.breakpoints, digests)
    found.save()
    return found
