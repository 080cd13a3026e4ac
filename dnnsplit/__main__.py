"""The command line: ``dnnsplit`` (= ``python -m dnnsplit``). Exit code 0 done, 2 bad input, 1 anything else."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dnnsplit as ds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except ds.DnnSplitError as error:
        print(f"dnnsplit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dnnsplit: interrupted", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dnnsplit", description=(ds.__doc__ or "").split("\n\n", maxsplit=1)[0])
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a notebook or a sweep file through papermill")
    run.add_argument("notebook", type=Path, help=".ipynb or .yaml")
    run.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="a parameter (repeatable)")
    run.add_argument("-o", "--out", type=Path, help="folder of the executed notebooks (default: data/runs)")
    run.add_argument("--report", type=Path, help="write the last executed notebook as one HTML page")
    run.set_defaults(command=_run)

    split = commands.add_parser("split", help="find the best plan")
    _add_problem(split)
    split.add_argument("--max-noise", type=float, help="noise limit (default: none)")
    split.add_argument("--energy-weight", type=float, default=0.0, help="weight of the normalised energy (default: 0)")
    split.add_argument("--max-device-energy", type=float, help="limit on the device's energy [J]")
    split.add_argument("--method", default="auto", help="auto, elimination or slides (default: auto)")
    split.add_argument("--solver", default="HiGHS", help="of the MILP: HiGHS, CBC, CPLEX, GUROBI, SCIP (default: HiGHS)")
    split.set_defaults(command=_split)

    pareto = commands.add_parser("pareto", help="print the whole latency-noise front as CSV")
    _add_problem(pareto)
    pareto.set_defaults(command=_pareto)

    cut = commands.add_parser("cut", help="cut a model by a plan")
    cut.add_argument("model", type=Path)
    cut.add_argument("plan", type=Path, help="JSON from 'dnnsplit split -o'")
    cut.add_argument("-o", "--out", type=Path, default=Path("build"), help="folder of the parts (default: build)")
    cut.set_defaults(command=_cut)
    return parser


def _add_problem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="ONNX file")
    parser.add_argument("network", type=Path, help="network YAML")
    parser.add_argument("times", type=Path, help="CSV of layer times")
    parser.add_argument("--noise", type=Path, help="CSV of noise samples; without it nothing is quantized")
    parser.add_argument("--degree", type=int, default=0, help="of the noise polynomial; 0 (default) takes the table itself")
    parser.add_argument("-o", "--out", type=Path, help="write the result here instead of printing it")


def _problem(options: argparse.Namespace) -> tuple[Any, ...]:
    noise = None
    if options.noise:
        samples = ds.NoiseSamples.load(options.noise)
        noise = ds.fit_noise(samples, degree=options.degree) if options.degree else ds.fit_noise(samples, "measured")
    return ds.load(options.model), ds.Network.load(options.network), ds.LayerTimes.load(options.times), noise


def _run(options: argparse.Namespace) -> int:
    parameters = {}
    for text in options.parameters:
        name, equals, value = text.partition("=")
        if not equals:
            raise ds.OptionError(f"-p {text!r} is not NAME=VALUE")
        try:
            parameters[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parameters[name] = value
    runs = ds.run(options.notebook, parameters, options.out)
    columns = [c for c in ("notebook", "status", "seconds", "cpu_s", "cell", "error") if c in runs.frame]
    print(runs.frame[columns].to_string(index=False, float_format="{:.1f}".format))
    if len(runs.failed):
        print(f"dnnsplit: {len(runs.failed)} failed; the executed notebook is {runs.failed['output'].iloc[0]}", file=sys.stderr)
        return 1
    if options.report:
        from dnnsplit.report import write_report

        print(write_report(runs.frame["output"].iloc[-1], options.report))
    return 0


def _split(options: argparse.Namespace) -> int:
    plan = ds.split(
        *_problem(options),
        max_noise=options.max_noise,
        energy_weight=options.energy_weight,
        max_device_energy_j=options.max_device_energy,
        method=options.method,
        solver=options.solver,
    )
    print(plan)
    if options.out:
        plan.save(options.out)
    return 0


def _pareto(options: argparse.Namespace) -> int:
    text = ds.pareto(*_problem(options)).frame.to_csv(index=False)
    if options.out:
        from dnnsplit.files import write_text

        write_text(options.out, text)
    else:
        print(text, end="")
    return 0


def _cut(options: argparse.Namespace) -> int:
    print(ds.cut(options.model, ds.Plan.load(options.plan), options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
