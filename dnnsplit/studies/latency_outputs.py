"""What a deployment returned beside what the whole model returns, in float32 and with the same layers in int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.cut import calibration_of
from dnnsplit.cutting.running import received, run_parts
from dnnsplit.cutting.verification import OF_NOISE
from dnnsplit.graph.feeds import Feed, images_sha256
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.differences import ROUNDING, TINY, absolute, magnitude
from dnnsplit.ground.errors import DeployError, raise_problems
from dnnsplit.noise.prefix_tree import all_in_int8, compared
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.setting import QuantizationSetting
from dnnsplit.solving.plan import Plan

KEPT = 4  # schemes whose outputs are kept: neighbouring plans often have the same
FLOAT32 = Calibration({}, QuantizationSetting(), "", "")

Outputs = list[list[np.ndarray]]  # of each inference, in the order of `compared`


@dataclass(frozen=True, eq=False)
class WholeModel:
    """What the whole model returns for the inputs of a latency test; it is run once for a scheme, however many plans have it."""

    graph: LayerGraph
    feeds: Sequence[Feed]
    _kept: dict[object, Outputs] = field(default_factory=dict, init=False)

    def float32(self) -> Outputs:
        """Return the outputs in float32."""
        if "float32" not in self._kept:
            self._kept["float32"] = [*all_in_int8(self.graph, (), FLOAT32, self.feeds)]
        return self._kept["float32"]

    def like(self, plan: Plan, bundle: Bundle) -> Outputs:
        """Return the outputs with the same layers in int8, from inputs as their forms leave them.

        Where forms of other tensors lose something, they are those of the parts, run here.
        """
        int8 = tuple(name for name in self.graph.topological if name in plan.quantized)
        if not (int8 or bundle.lossy_wires or bundle.lossy_inputs):
            return self.float32()
        if bundle.lossy_wires:
            return [[run_parts(bundle, feed)[name] for name in compared(self.graph.model)] for feed in self.feeds]
        key = int8, tuple(sorted(bundle.lossy_inputs.items()))
        if key not in self._kept:
            for old in [known for known in self._kept if known != "float32"][: -KEPT + 1 or None]:
                del self._kept[old]
            feeds = [received(bundle, feed) for feed in self.feeds]
            self._kept[key] = [*all_in_int8(self.graph, int8, calibration_of(plan), feeds)]
        return self._kept[key]


def compare_outputs(whole: WholeModel, plan: Plan, bundle: Bundle, answers: Sequence[Feed]) -> tuple[float, float]:
    """Return rho of the answers against the float32 model, and their greatest relative difference from the same int8 model.

    Raises
    ------
    DeployError
        The noise of the answers is not that of the plan's scheme, as `latency_tests` says.
    """
    names = compared(whole.graph.model)
    found, wanted, sizes, worst = [], [], [], 0.0
    for answer, plain, same in zip(answers, whole.float32(), whole.like(plan, bundle), strict=False):
        found.append(np.mean([absolute(answer[n], p).mean() for n, p in zip(names, plain, strict=True)]))
        wanted.append(np.mean([absolute(o, p).mean() for o, p in zip(same, plain, strict=True)]))
        sizes.append(np.mean([magnitude(p).mean() for p in plain]))
        for name, one in zip(names, same, strict=True):
            worst = max(worst, float(absolute(answer[name], one).max() / max(magnitude(one).max(), TINY)))
    rho, expected = float(np.mean(found)), {"its scheme has on these images": float(np.mean(wanted))}
    there = plan.origin.get("images_sha256") == images_sha256([*whole.feeds]) and "again" not in plan.origin
    is_rho = plan.noise_kind == "measured" and plan.origin.get("metric", "rho") == "rho"
    if there and len(answers) >= len(whole.feeds) and is_rho:
        expected["it was planned with"] = plan.noise
    rounding = ROUNDING * float(np.mean(sizes))
    off = [f"{what} {eta:.6g}" for what, eta in expected.items() if not abs(rho - eta) <= OF_NOISE * eta + rounding]
    raise_problems(DeployError, f"the noise of what the deployment returned is {rho:.6g}", off)
    return rho, worst
