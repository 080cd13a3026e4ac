"""dnnsplit decides which layers of a neural network run where, and which in int8.

ONNX file -> graph -> profile -> noise -> costs -> solve -> plan -> cut -> deploy -> figures

Names are loaded when they are first used, so that importing the package does nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnnsplit import examples, plots, scenes
    from dnnsplit.bandwidth import BandwidthPlans, bandwidths
    from dnnsplit.blocks import load
    from dnnsplit.calibration import Calibration, QuantizationSetting, calibrate
    from dnnsplit.costs import Cost, Transfer, evaluate
    from dnnsplit.cutting import cut
    from dnnsplit.deploy.bundle import Bundle
    from dnnsplit.deploy.testbed import latency_test, testbed
    from dnnsplit.errors import (
        DeployError,
        DnnSplitError,
        InfeasibleError,
        ModelError,
        NetworkError,
        NoiseError,
        OptionError,
        ProfileError,
        SolverError,
    )
    from dnnsplit.experiment import latency_tests
    from dnnsplit.explanation import Explanation, explain
    from dnnsplit.front import Front, energy_front, pareto
    from dnnsplit.graph import Layer, LayerGraph, Tensor
    from dnnsplit.instance import Instance
    from dnnsplit.measure import measure_noise
    from dnnsplit.network import Link, Network, Server
    from dnnsplit.noise import NoiseModel, NoiseSamples
    from dnnsplit.plan import Plan
    from dnnsplit.profiling import profile
    from dnnsplit.regression import fit_noise
    from dnnsplit.schedule import makespan
    from dnnsplit.solve import split
    from dnnsplit.sweep import publish, run
    from dnnsplit.times import LayerTimes

# name -> module that defines it; "" for a module that is public as a whole
_HOME = {
    # graph
    "load": "blocks", "Layer": "graph", "LayerGraph": "graph", "Tensor": "graph",
    # network
    "Link": "network", "Network": "network", "Server": "network",
    # profile
    "LayerTimes": "times", "profile": "profiling",
    # noise
    "Calibration": "calibration", "QuantizationSetting": "calibration", "calibrate": "calibration",
    "NoiseModel": "noise", "NoiseSamples": "noise", "fit_noise": "regression", "measure_noise": "measure",
    # costs, solve, plan
    "Instance": "instance",
    "Cost": "costs", "Transfer": "costs", "evaluate": "costs",
    "Plan": "plan", "split": "solve", "Front": "front", "pareto": "front", "energy_front": "front", "makespan": "schedule",
    "Explanation": "explanation", "explain": "explanation", "BandwidthPlans": "bandwidth", "bandwidths": "bandwidth",
    # cut, deploy
    "Bundle": "deploy.bundle", "cut": "cutting", "testbed": "deploy.testbed",
    "latency_test": "deploy.testbed", "latency_tests": "experiment",
    # notebooks and figures
    "publish": "sweep", "run": "sweep", "examples": "", "plots": "", "scenes": "",
    # errors
    "DnnSplitError": "errors", "DeployError": "errors", "InfeasibleError": "errors", "ModelError": "errors",
    "NetworkError": "errors", "NoiseError": "errors", "OptionError": "errors", "ProfileError": "errors", "SolverError": "errors",
}  # fmt: skip

__all__ = [
    "BandwidthPlans",
    "Bundle",
    "Calibration",
    "Cost",
    "DeployError",
    "DnnSplitError",
    "Explanation",
    "Front",
    "InfeasibleError",
    "Instance",
    "Layer",
    "LayerGraph",
    "LayerTimes",
    "Link",
    "ModelError",
    "Network",
    "NetworkError",
    "NoiseError",
    "NoiseModel",
    "NoiseSamples",
    "OptionError",
    "Plan",
    "ProfileError",
    "QuantizationSetting",
    "Server",
    "SolverError",
    "Tensor",
    "Transfer",
    "bandwidths",
    "calibrate",
    "cut",
    "energy_front",
    "evaluate",
    "examples",
    "explain",
    "fit_noise",
    "latency_test",
    "latency_tests",
    "load",
    "makespan",
    "measure_noise",
    "pareto",
    "plots",
    "profile",
    "publish",
    "run",
    "scenes",
    "split",
    "testbed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dnnsplit' has no attribute {name!r}")
    home = _HOME[name]
    value = import_module(f"dnnsplit.{home or name}")
    value = getattr(value, name) if home else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
