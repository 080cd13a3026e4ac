"""The commands that put times together: of several servers in one table, and of servers that nobody can measure."""

from __future__ import annotations

import argparse
from pathlib import Path

import dnnsplit as ds
from dnnsplit.cli.assignments import shapes
from dnnsplit.cli.models import MODEL, Argument, argument, load
from dnnsplit.ground.outputs import keep
from dnnsplit.ground.units import number, parse

OUT = argument("-o", "--out", type=Path, required=True, writes="file", help="CSV of layer times to write")

JOIN: tuple[Argument, ...] = (
    argument("times", type=Path, nargs="+", help="CSVs of layer times, each of servers of its own"),
    OUT,
)


def join(options: argparse.Namespace) -> int:
    """Put the times of several servers into one table."""
    return _kept(ds.joined(*map(ds.LayerTimes.load, options.times)), options.out)


SCALE: tuple[Argument, ...] = (
    argument("times", type=Path, help="CSV of layer times"),
    argument("--source", required=True, help="the server that was measured"),
    argument("--server", required=True, help="the server that is wanted"),
    argument("--factor", required=True,
             help="seconds there per second of the source, such as 0.12; or a CSV of factors by operator and precision"),
    argument("--note", default="", help="where the factor comes from"),
    argument("--model", type=Path, help="ONNX file; a CSV of factors needs it"),
    argument("--shape", action="append", default=[], metavar="NAME=1,3,640,640", help="shape of an input that it leaves open"),
    OUT,
)  # fmt: skip


def scale(options: argparse.Namespace) -> int:
    """Estimate a server by another one."""
    if options.server == options.source:
        message = f"{options.source!r} would take the place of itself; give the server that was not measured another name"
        raise ds.OptionError(message)
    try:
        factor: float | str = number(options.factor)
    except ValueError:
        factor = options.factor
    graph = ds.load(options.model, shapes=shapes(options.shape)) if options.model else None
    times = ds.LayerTimes.load(options.times)
    return _kept(ds.scaled_times(times, options.source, options.server, factor, options.note, graph), options.out)


FLOPS: tuple[Argument, ...] = (
    *MODEL,
    argument("--server", required=True, help="the server that is wanted"),
    argument("--compute", required=True, metavar="FLOP/s", help="what it reaches in float32, such as '8.1 TFLOP/s'"),
    argument("--bandwidth", required=True, metavar="B/s", help="of its memory, such as '320 GB/s'"),
    argument("--layers", type=int, default=12, help="how many layers may run in int8, in the time of float32 (default: 12)"),
    argument("--note", default="", help="where the figures come from"),
    OUT,
)  # fmt: skip


def flops(options: argparse.Namespace) -> int:
    """Estimate a server by its data sheet."""
    compute, bandwidth = parse(options.compute, "compute"), parse(options.bandwidth, "bandwidth")
    graph = load(options)
    layers = graph.quantizable(options.layers)
    return _kept(ds.flops_times(graph, options.server, compute, bandwidth, layers, options.note), options.out)


def _kept(times: ds.LayerTimes, path: Path) -> int:
    keep(path, times.save)
    print(times)
    return 0
