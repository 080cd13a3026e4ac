"""dnnsplit decides which layers of a neural network run where, and which in int8.

ONNX file -> graph -> profile -> noise -> costs -> solve -> plan -> cut -> deploy -> figures

Names are loaded when they are first used, so that importing the package does nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnnsplit import examples, plots, scenes
    from dnnsplit.adapting import AdaptivePlans, adaptive_plans, cut_plans
    from dnnsplit.bandwidth import BandwidthPlans, bandwidths
    from dnnsplit.blocks import load
    from dnnsplit.calibration import Calibration, calibrate
    from dnnsplit.costs import Cost, Transfer, evaluate
    from dnnsplit.cutting import cut
    from dnnsplit.deploy.bundle import Bundle
    from dnnsplit.deploy.channels import Tls
    from dnnsplit.deploy.client import Client
    from dnnsplit.deploy.comparison import compare
    from dnnsplit.deploy.probing import answer_probes, probe
    from dnnsplit.deploy.serving import serve
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
    from dnnsplit.explorer import explore
    from dnnsplit.front import Front, energy_front, pareto
    from dnnsplit.graph import Layer, LayerGraph, Tensor
    from dnnsplit.grid import single_servers, sweep_plans
    from dnnsplit.instance import Instance
    from dnnsplit.measure import measure_noise
    from dnnsplit.meter import NoiseMeter, noise_meter
    from dnnsplit.network import Link, Network, Server
    from dnnsplit.noise import NoiseModel
    from dnnsplit.noise_samples import NoiseSamples
    from dnnsplit.overhead import Overhead, priced
    from dnnsplit.plan import Plan
    from dnnsplit.power import Power, measure_power
    from dnnsplit.profiling import profile
    from dnnsplit.regression import fit_noise
    from dnnsplit.remote_times import flops_times, joined, profile_here, scaled_times
    from dnnsplit.results import publish
    from dnnsplit.schedule import makespan
    from dnnsplit.setting import QuantizationSetting
    from dnnsplit.solve import split
    from dnnsplit.sweep import Runs, run
    from dnnsplit.times import LayerTimes

# name -> module that defines it; "" for a module that is public as a whole
_HOME = {
    # graph
    "load": "blocks", "Layer": "graph", "LayerGraph": "graph", "Tensor": "graph",
    # network
    "Link": "network", "Network": "network", "Server": "network",
    # profile
    "LayerTimes": "times", "profile": "profiling", "Overhead": "overhead", "priced": "overhead",
    "profile_here": "remote_times", "joined": "remote_times", "scaled_times": "remote_times", "flops_times": "remote_times",
    "Power": "power", "measure_power": "power",
    # noise
    "Calibration": "calibration", "QuantizationSetting": "setting", "calibrate": "calibration",
    "NoiseMeter": "meter", "noise_meter": "meter",
    "NoiseModel": "noise", "NoiseSamples": "noise_samples", "fit_noise": "regression", "measure_noise": "measure",
    # costs, solve, plan
    "Instance": "instance",
    "Cost": "costs", "Transfer": "costs", "evaluate": "costs",
    "Plan": "plan", "split": "solve", "Front": "front", "pareto": "front", "energy_front": "front", "makespan": "schedule",
    "Explanation": "explanation", "explain": "explanation", "BandwidthPlans": "bandwidth", "bandwidths": "bandwidth",
    # cut, deploy
    "Bundle": "deploy.bundle", "cut": "cutting", "testbed": "deploy.testbed",
    "latency_test": "deploy.testbed", "latency_tests": "experiment", "compare": "deploy.comparison",
    "cut_plans": "adapting", "adaptive_plans": "adapting", "AdaptivePlans": "adapting",
    "serve": "deploy.serving", "Client": "deploy.client", "Tls": "deploy.channels",
    "probe": "deploy.probing", "answer_probes": "deploy.probing",
    # notebooks and figures
    "publish": "results", "run": "sweep", "Runs": "sweep", "sweep_plans": "grid", "single_servers": "grid",
    "explore": "explorer", "examples": "", "plots": "", "scenes": "",
    # errors
    "DnnSplitError": "errors", "DeployError": "errors", "InfeasibleError": "errors", "ModelError": "errors",
    "NetworkError": "errors", "NoiseError": "errors", "OptionError": "errors", "ProfileError": "errors", "SolverError": "errors",
}  # fmt: skip

__all__ = [
    "AdaptivePlans",
    "BandwidthPlans",
    "Bundle",
    "Calibration",
    "Client",
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
    "NoiseMeter",
    "NoiseModel",
    "NoiseSamples",
    "OptionError",
    "Overhead",
    "Plan",
    "Power",
    "ProfileError",
    "QuantizationSetting",
    "Runs",
    "Server",
    "SolverError",
    "Tensor",
    "Tls",
    "Transfer",
    "adaptive_plans",
    "answer_probes",
    "bandwidths",
    "calibrate",
    "compare",
    "cut",
    "cut_plans",
    "energy_front",
    "evaluate",
    "examples",
    "explain",
    "explore",
    "fit_noise",
    "flops_times",
    "joined",
    "latency_test",
    "latency_tests",
    "load",
    "makespan",
    "measure_noise",
    "measure_power",
    "noise_meter",
    "pareto",
    "plots",
    "priced",
    "probe",
    "profile",
    "profile_here",
    "publish",
    "run",
    "scaled_times",
    "scenes",
    "serve",
    "single_servers",
    "split",
    "sweep_plans",
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
