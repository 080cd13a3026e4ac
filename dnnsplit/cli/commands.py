"""The commands of the command line: each is one function with its arguments in front of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dnnsplit as ds
from dnnsplit.cli import agents, exporting, networks, profiles, serving, sweeps
from dnnsplit.cli.models import (
    FILES,
    IMAGES,
    MODEL,
    PREPROCESS,
    PROBLEM,
    PROVIDER,
    Argument,
    argument,
    images,
    load,
    problem_of,
    tell,
)
from dnnsplit.cli.sweeps import KEPT
from dnnsplit.ground.outputs import check_output, keep

Command = Callable[[argparse.Namespace], int]
UNSETTLED = 0.03  # of the time of a whole model: a profile that knows it less well says so
COMMANDS: dict[str, tuple[Command, str, tuple[Argument, ...]]] = {}


def _command(name: str, summary: str, *arguments: Argument) -> Callable[[Command], Command]:
    """Register a function as a command."""

    def register(function: Command) -> Command:
        COMMANDS[name] = (function, summary, arguments)
        return function

    return register


LAYERS = argument("--layers", type=int, default=12, help="how many layers may run in int8, those with most FLOPs (default: 12)")
SETTING = argument("--setting", default="default", metavar="NAME",
                   help="how int8 is made, for times and noise alike: default (U8S8, per channel) or thesis (S8S8, symmetric, "
                        "per tensor) (default: default)")  # fmt: skip
WEIGHTS = (
    argument("--latency-weight", type=float, default=1.0, help="weight of the latency (default: 1)"),
    argument("--energy-weight", type=float, default=0.0, help="weight of the energy; both are normalised then (default: 0)"),
)


def _fewer_layers(options: argparse.Namespace, graph: ds.LayerGraph) -> bool:
    """Say where a model has fewer layers for int8 than are asked for; return whether it has any."""
    there = len(graph.quantizable(options.layers))
    if 0 < there < options.layers:
        what = f"{there} layer{'s' * (there > 1)} of {options.model.name} can run in int8"
        tell(f"{what}, all of which are taken (--layers {options.layers})")
    return there > 0


_command("run", "run a notebook, a grid of it, or a sweep file", *sweeps.RUN)(sweeps.run)
_command("results", "print what earlier runs were made with, and their results", *sweeps.RESULTS)(sweeps.results)
_command("agent", "join this host to others: it measures itself and runs parts, until Ctrl-C", *agents.AGENT)(agents.agent)
_command("deploy", "put a model on the hosts that have joined, and follow their state", *agents.DEPLOY)(agents.deploy)
_command("status", "say who has joined, how the links are, and what is deployed", *agents.STATUS)(agents.status)
_command("undeploy", "end a deployment", *agents.UNDEPLOY)(agents.undeploy)
_command("keys", "make key pairs for hosts that call each other over a network", *agents.MAKE_KEYS)(agents.make_keys)
_command("serve", "run one server of a cut model until Ctrl-C; needs requirements-serve.txt only", *serving.SERVE)(serving.serve)
_command("probe", "measure the link to a host that runs 'dnnsplit probe --listen', or a stage", *serving.PROBE)(serving.probe)
_command("network", "begin a network file, check one, or print the schema of it", *networks.NETWORK)(networks.network)
_command("profile-join", "put the times of several servers into one table", *profiles.JOIN)(profiles.join)
_command("profile-scale", "estimate a server by the times of another one", *profiles.SCALE)(profiles.scale)
_command("profile-flops", "estimate a server by its data sheet (roofline)", *profiles.FLOPS)(profiles.flops)
_command("export", "write a YOLO11 network as ONNX; needs the extra 'train'", *exporting.ARGUMENTS)(exporting.export)


@_command(
    "profile",
    "measure a model on this machine, which is the server itself",
    *MODEL,
    argument("--server", required=True, help="name of this server in the network YAML"),
    argument("-o", "--out", type=Path, required=True, writes="file", help="CSV of layer times to write, and to bring back"),
    argument("--images", default="", help=f"{FILES}, or 'random': made-up values (default: scenes, for the examples' models)"),
    PREPROCESS,
    argument("--runs", type=int, default=40, help="most runs of the whole model (default: 40)"),
    argument("--splits", type=int, default=24, help="most random splits whose parts are measured; 0: none (default: 24)"),
    LAYERS,
    SETTING,
    PROVIDER,
)
def _profile(options: argparse.Namespace) -> int:
    from dnnsplit.graph.feeds import made_up  # a host that only serves has no onnx

    graph = load(options, options.provider)
    random = options.images == "random"
    given = made_up(graph.model) if random else images(options, graph, calibration=16)[0]
    if options.layers and not _fewer_layers(options, graph):
        tell(f"no layer of {options.model.name} can run in int8: float32 alone is measured")
    effort = {"runs": options.runs, "splits": options.splits, "provider": options.provider, "forms": not random}
    times = ds.profile_here(graph, options.server, given, options.layers, setting=options.setting, **effort)
    if slow := times.made[options.server].get("float32_products"):
        why = f"ONNX Runtime has no kernel here for setting {options.setting!r}"
        tell(f"{len(slow)} of the layers in int8 are multiplied in float32 between two conversions, and so they are timed: {why}")
    known = times.made[options.server].get("half_width", 0.0)
    if known > UNSETTLED:
        why = "something else computed meanwhile, or the machine changes its pace; measure again while it is idle"
        tell(f"the time of the whole model is known to {100 * known:.2g} % only: {why}")
    if random:
        made = "measured on made-up values"
        tell(f"times are {made}; ranges of int8, and what depends on data, may differ on yours; forms on the wire are left out")
        times = replace(times, frame=times.frame.assign(note=times.frame["note"] + f"; {made}"))
    keep(options.out, times.save)
    print(times)
    return 0


@_command(
    "power",
    "measure what this machine draws while a model runs, by its energy counters",
    *MODEL,
    argument("--network", type=Path, writes="file", help="network YAML to write the power into"),
    argument("--server", help="name of this machine in it"),
    argument("--seconds", type=float, default=10.0, help="length of each window [s] (default: 10)"),
    argument("--pairs", type=int, default=10, help="most windows that run the model, and as many that do not (default: 10)"),
    IMAGES,
    PREPROCESS,
    PROVIDER,
)
def _power(options: argparse.Namespace) -> int:
    if (options.network is None) != (options.server is None):
        message = "give --network and --server together, or neither"
        raise ds.OptionError(message)
    if options.network:
        ds.Network.load(options.network).server(options.server)  # a wrong name is told before measuring
    graph = load(options)
    found = ds.measure_power(
        graph, images(options, graph, measurement=1)[0], options.seconds, options.pairs, provider=options.provider
    )
    try:
        if options.network:
            found.write(options.network, options.server)
    finally:
        print(found)
    return 0


@_command(
    "noise",
    "measure the noise of quantization schemes",
    *MODEL,
    argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        writes="file",
        help="CSV of noise samples to write; stopped work goes on from there",
    ),
    argument("--budget", type=int, help="measure this many designed schemes (default: all of them)"),
    argument("--count", type=int, default=8, help="how many images (default: 8)"),
    argument("--source-form", action="append", default=[], help="lossy form of inputs to measure too, like jpeg-95"),
    argument(
        "--metric",
        dest="metrics",
        action="append",
        default=[],
        metavar="NAME",
        help="another metric to write too, for 'noise-for': disagreement, of detections; top1, the share whose class changes; "
        "nsr, ... (repeatable)",
    ),
    IMAGES,
    PREPROCESS,
    LAYERS,
    SETTING,
)
def _noise(options: argparse.Namespace) -> int:
    from dnnsplit.noise.meter import told_beside

    journal = options.out.with_suffix(".journal.npz")
    check_output(journal)
    graph = load(options)
    if not _fewer_layers(options, graph):
        tell(f"no layer of {options.model.name} can run in int8: there is no noise of that")
    elif options.budget and options.budget > (most := 2 ** len(graph.quantizable(options.layers)) - 1):
        tell(f"there are {most} schemes that quantize something, all of which are measured (--budget {options.budget})")
    calibrating, pictures = images(options, graph, calibration=16, noise=options.count)
    calibration = ds.calibrate(graph, calibrating, options.setting)
    detections, _ = told_beside(graph.model, options.metrics)
    asked = {"budget": options.budget, "resume": journal, "sources": options.source_form, "detections": detections}
    try:
        samples = ds.measure_noise(graph, pictures, options.layers, calibration=calibration, **asked)
    except KeyboardInterrupt as error:
        error.add_note(KEPT)
        raise
    keep(options.out, lambda path: samples.save(path, options.metrics))
    journal.unlink(missing_ok=True)
    print(samples)
    return 0


@_command(
    "noise-for",
    "propose a limit on the noise that keeps another metric",
    argument("samples", type=Path, help="CSV of noise samples with the metric: of 'dnnsplit noise --metric NAME'"),
    argument("--metric", default="disagreement", help="which (default: disagreement)"),
    argument(
        "--at-most",
        type=float,
        default=0.05,
        help="how much of it is allowed, such as 0.02 of top1 where 98 %% are to keep their class (default: 0.05)",
    ),
    argument("--share", type=float, default=1.0, help="of the schemes up to the limit that must keep it (default: 1)"),
    argument("--confidence", type=float, help="keep it by upper bounds over images of this confidence (default: the mean)"),
)
def _noise_for(options: argparse.Namespace) -> int:
    samples = ds.NoiseSamples.load(options.samples)
    print(ds.noise_for(samples, options.metric, options.at_most, options.share, options.confidence))
    return 0


@_command(
    "split",
    "find the best plan",
    *PROBLEM,
    argument("--max-noise", type=float, help="noise limit (default: none)"),
    *WEIGHTS,
    argument("--normalise", default="limited", help="by payoffs under the same limits, or fixed ones (default: limited)"),
    argument("--max-device-energy", dest="max_device_energy_j", type=float, help="limit on the device's energy [J]"),
    argument("--method", default="auto", help="auto, elimination, milp or slides (default: auto)"),
    argument("--solver", default="HiGHS", help="of the MILP: HiGHS, CBC, CPLEX, GUROBI, SCIP (default: HiGHS)"),
    argument("--routing", default="direct", help="direct, or relay through other servers (default: direct)"),
    argument("--objective", default="latency", help="latency, or throughput of a pipeline (default: latency)"),
    argument("--explain", action="store_true", help="say what the plan is better than, and what comes next"),
)
def _split(options: argparse.Namespace) -> int:
    problem = problem_of(options)
    names = (
        "max_noise latency_weight energy_weight normalise max_device_energy_j method solver routing objective confidence "
        "source_forms wire_forms"
    )
    asked = {name: getattr(options, name) for name in names.split()}
    plan = ds.split(*problem, **asked)
    if options.out:
        keep(options.out, plan.save)
    print(plan)
    if options.explain:
        print(ds.explain(plan, *problem, **asked))
    return 0


@_command("pareto", "print the whole front of the objective against noise as CSV", *PROBLEM, *WEIGHTS)
def _pareto(options: argparse.Namespace) -> int:
    names = "latency_weight energy_weight confidence source_forms wire_forms"
    asked = {name: getattr(options, name) for name in names.split()}
    text = ds.pareto(*problem_of(options), **asked).frame.to_csv(index=False)
    if options.out:
        from dnnsplit.ground.files import write_text

        keep(options.out, lambda path: write_text(path, text))
    else:
        print(text, end="")
    return 0


@_command(
    "cut",
    "cut a model by a plan",
    *MODEL,
    argument("plan", type=Path, help="JSON from 'dnnsplit split -o'"),
    argument("-o", "--out", type=Path, default=Path("build"), writes="folder", help="folder of the parts (default: build)"),
    argument("--images", default="", help=f"{FILES}, to check the parts with (default: made-up values)"),
    PREPROCESS,
    argument("--no-check", action="store_true", help="do not compare the parts with the whole model"),
)
def _cut(options: argparse.Namespace) -> int:
    graph = load(options)
    plan = ds.Plan.load(options.plan, graph)
    given = images(options, graph, comparison=1)[0] if options.images else None
    print(ds.cut(graph, plan, options.out, check=not options.no_check, images=given))
    return 0
