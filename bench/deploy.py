"""Deployments in one table: prediction, outputs, hops against plain gRPC, pipelining, a lost stage, and what cutting costs.

python bench/deploy.py                     the latency test is read from data/measurements
python bench/deploy.py --measure           it is run afresh, in a few minutes
python bench/deploy.py --measure rows.csv  so too, and goes on from the rows that are there
python bench/deploy.py --sizes 8 --repeats 100 --model M.onnx
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
from deploy_cut import SERVERS, SHIPPED, cut_costs, existing
from deploy_faults import DEADLINE_S, LOST, forwarding, lost_stage, network
from tqdm import tqdm

import dnnsplit as ds
from dnnsplit.deployment.wire.channels import size_options
from dnnsplit.ground.tables import read_table
from dnnsplit.runtime.timing import settled

SERVE = "--plain-server"
LARGE_MB = 240
KEPT = {True: "yes", False: "NO", None: "-"}
COLUMNS = ("what", "asked", "reached", "kept", "how")


@contextmanager
def plain_server() -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """A process that takes bytes by gRPC and answers nothing, and the call that sends it some."""
    process = subprocess.Popen([sys.executable, __file__, SERVE], stdout=subprocess.PIPE, text=True)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}", size_options(-1)) as channel:
            yield channel.unary_unary("/plain/Send")
    finally:
        process.kill()
        process.wait()


def serve_plain() -> None:
    """Answer ``/plain/Send`` until killed."""
    server = grpc.server(ThreadPoolExecutor(4), options=size_options(-1))
    send = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("plain", {"Send": send}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def hops(size_mb: float, repeats: int) -> dict[str, object]:
    """Median seconds of a hop: of the stages (all that is not computing, by three hops), and of plain gRPC, in turn."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, plain_server() as send:
        bundle = forwarding(Path(folder), size_mb)
        array = rng.random(bundle.inputs[0].shape, np.float32)
        content = array.tobytes()
        # links so fast that nothing is waited; the emulation must not stretch computing either
        with ds.testbed(bundle, network(1e15, 0.0), dict.fromkeys(SERVERS, 1e-9), time_dilation=1.0) as client:
            stage_s, plain_s = [], []
            for i in range(-5, repeats):
                trace = client.trace({"t0": array})[1]
                started = time.perf_counter()
                send(content)
                if i >= 0:
                    plain_s.append(time.perf_counter() - started)
                    stage_s.append((trace.latency_s - sum(part.wall_s for part in trace.parts)) / 3)
                if settled(plain_s) and settled(stage_s):
                    break
    stage, plain = (1e3 * float(np.median(values)) for values in (stage_s, plain_s))
    return {"MB": size_mb, "stage ms": stage, "plain gRPC ms": plain, "ratio": stage / plain}


def pipeline(size_mb: float = 0.2, requests: int = 40, in_flight: int = 8) -> tuple[float, float, float]:
    """Requests per second one at a time and with several in flight, and the rate of the slowest stage."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = forwarding(Path(folder), size_mb)
        feed = {"t0": np.zeros(bundle.inputs[0].shape, np.float32)}
        slow = dict.fromkeys(SERVERS, 100.0)  # computing takes about as long as sending, and leaves the machine idle
        with ds.testbed(bundle, network(5e6, 0.005), slow, time_dilation=1.0) as client, ThreadPoolExecutor(in_flight) as pool:
            traces = [client.trace(feed)[1] for _ in range(5)]
            alone_s = float(np.median([trace.latency_s for trace in traces]))
            busy = pd.concat([trace.frame for trace in traces[1:]])
            bottleneck_s = busy.groupby(["kind", "source", "target"])["seconds"].sum().max() / (len(traces) - 1)
            list(pool.map(client.infer, [feed] * in_flight))
            started = time.perf_counter()
            list(pool.map(client.infer, [feed] * requests))
            rate = requests / (time.perf_counter() - started)
    return 1 / alone_s, rate, 1 / bottleneck_s


def measured(results: Path | None, limits: Sequence[float], repeats: int = 25, warm_up: int = 10) -> pd.DataFrame:
    """Run the thesis' latency test on the shipped model, with the profile, the noise table and the networks of data/."""
    networks = {name: ds.examples.network(name) for name in ds.examples.TOPOLOGIES}
    graph, _, times, noise = ds.examples.yolo11n()
    images = ds.examples.load_images("", 8, seed=2)  # the noise table was measured on these
    with tempfile.TemporaryDirectory() as folder:
        return ds.latency_tests(
            graph, networks, times, noise, max_noise=limits, images=images, build=folder,
            repeats=repeats, warm_up=warm_up, results=results,
        )  # fmt: skip


def still_made(once: pd.DataFrame) -> int:
    """How many of the plans `split` makes today with the data as they are, judged by the predicted latency."""
    given = {name: ds.examples.yolo11n(name) for name in once["topology"].unique()}
    today = [ds.split(*given[row.topology], max_noise=row.max_noise).latency_s for row in once.itertuples()]
    return int(np.isclose(today, once["predicted_s"], rtol=1e-9).sum())


def latency_rows(tests: pd.DataFrame, source: str) -> list[tuple[object, ...]]:
    """The rows of the latency test; a plan that is the best for several limits counts once."""
    once = tests.drop_duplicates("plan_id")
    off, int8 = once["error_%"].abs(), once["int8_layers"] > 0
    plain, same = (once.loc[rows, "output_difference"].max() for rows in (~int8, int8))
    noise = (once.loc[int8, "output_noise"] / once.loc[int8, "noise"] - 1).abs().max()
    topologies, limits = tests["topology"].nunique(), tests.groupby("topology")["max_noise"].nunique().min()
    how = f"{len(once)} plans, {once['repeats'].min()} to {once['repeats'].max()} requests each; {source}"
    return [
        ("latency test: topologies x noise limits", "3 x 8", f"{topologies} x {limits}", topologies >= 3 and limits >= 8, how),
        ("predicted against measured latency: mean |error|, %", "3", f"{off.mean():.2f}", off.mean() <= 3, "of these plans"),
        ("  worst |error|, %", "8", f"{off.max():.2f}", off.max() <= 8, "of these plans"),
        ("outputs of float32 plans: relative difference from the whole model", "1e-3", f"{plain:.1g}", plain <= 1e-3,
         f"greatest of {(~int8).sum()} of these plans"),
        ("outputs of int8 plans: their noise against the plan's, relative", "equal", f"{noise:.1g}", noise <= 1e-6,
         f"greatest of {int8.sum()} of these plans (1e-6 is equal); up to {same:.1g} from the whole model with this int8"),
    ]  # fmt: skip


def hop_rows(sizes: Sequence[float], repeats: int) -> list[tuple[object, ...]]:
    """The rows of the stage server on loopback against plain gRPC of the same bytes."""
    table = pd.DataFrame([hops(size, repeats) for size in tqdm(sizes, desc="hops", unit="size")])
    rows = [
        (f"stage server against plain gRPC, a hop of {row['MB']:g} MB", "1.5", f"{row['ratio']:.2f}", row["ratio"] <= 1.5,
         f"{row['stage ms']:.2f} ms against {row['plain gRPC ms']:.2f} ms")
        for row in table.to_dict("records")
    ]  # fmt: skip
    if len(table) > 1:
        stage, plain = (np.polyfit(table["MB"], table[name], 1)[0] for name in ("stage ms", "plain gRPC ms"))
        how = f"{stage:.2f} ms against {plain:.2f} ms, slopes over the sizes"
        rows.append(("  per MB", "1.5", f"{stage / plain:.2f}", stage <= 1.5 * plain, how))
    return rows


def pipeline_rows() -> list[tuple[object, ...]]:
    """The row of three stages with several requests in flight."""
    alone, rate, most = pipeline()
    how = f"{rate:.1f} requests/s with 8 in flight of {most:.1f}; {alone:.1f} one at a time"
    return [("pipeline of 3 stages: share of the slowest stage's rate", "0.8", f"{rate / most:.2f}", rate >= 0.8 * most, how)]


def lost_rows() -> list[tuple[object, ...]]:
    """The rows of the stage that is killed and started again."""
    table, listened_s = lost_stage()
    count = table["outcome"].value_counts().reindex(["right", "refused", "wrong", "unexplained"], fill_value=0)
    late = int((table["wait_s"] > DEADLINE_S + 0.1).sum())  # whoever waits has to be woken up
    ended = (table["begun_s"] + table["wait_s"])[table["outcome"] == "right"]
    back = ended[ended > listened_s]
    again = f"answers again {back.min() - listened_s:.1f} s after it listened" if len(back) else "never answers again"
    unclear = count["unexplained"] + late
    return [
        (f"{len(table)} requests, stage '{LOST}' killed and started again: wrong answers", "0", count["wrong"],
         count["wrong"] == 0, f"{count['right']} answered right, {count['refused']} refused because of '{LOST}'"),
        ("  refused without that reason, or later than the deadline", "0", unclear, unclear == 0,
         f"longest wait {table['wait_s'].max():.2f} s of {DEADLINE_S:g} s"),
        ("  used again once it is back", "yes", "yes" if len(back) else "no", len(back) > 0, again),
    ]  # fmt: skip


def cut_rows(model: Path) -> list[tuple[object, ...]]:
    """The rows of what cutting costs; what is asked is asked of a model of 250 MB, and a smaller one does not show it."""
    full, quick = cut_costs(model).to_dict("records")
    seconds, peak, large = full["cpu_s"], full["peak_gib"], full["model_mb"] >= LARGE_MB
    return [
        ("cut of a model of 250 MB: CPU seconds", "5", f"{seconds:.2f}", seconds <= 5 if large else None,
         f"{quick['cpu_s']:.2f} without the check; {model.name}, {full['model_mb']:.0f} MB, {full['parts']} parts"),
        ("  peak memory, GiB", "1.5", f"{peak:.2f}", peak <= 1.5 if large else None,
         f"{quick['peak_gib']:.2f} without the check; of the whole process"),
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.0, 4.0, 16.0], help="of the tensor [MB]")
    parser.add_argument("--repeats", type=int, default=40, help="of each hop, at most")
    parser.add_argument("--model", type=existing, default=SHIPPED, help="ONNX file to cut (default: the shipped one)")
    parser.add_argument("--measure", nargs="?", const=True, metavar="CSV", help="run the latency test, and keep its rows there")
    parser.add_argument(SERVE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain_server:
        return serve_plain()
    file = ds.examples.data_folder() / "measurements" / f"{ds.examples.SHIPPED}.csv"
    if not file.exists():
        parser.error(f"there is no {file}; make it with: make figures")
    tests = read_table(file)
    cutting = cut_rows(options.model)  # first, for a new process starts with the peak memory of this one
    if options.measure:
        path = None if options.measure is True else Path(options.measure)
        tests, source = measured(path, sorted(tests["max_noise"].unique())), "measured now"
    else:
        once = tests.drop_duplicates("plan_id")
        source = f"read from data/measurements/{file.name}; {still_made(once)} of them are what split finds today"
    rows = [*latency_rows(tests, source), *hop_rows(options.sizes, options.repeats), *pipeline_rows(), *lost_rows(), *cutting]
    table = pd.DataFrame(rows, columns=COLUMNS).assign(kept=[KEPT[row[3]] for row in rows]).astype(str)
    left = {name: f"{{:<{table[name].str.len().max()}}}".format for name in COLUMNS}
    lines = table.to_string(index=False, formatters=left, justify="left").splitlines()
    print(*(line.rstrip() for line in lines), sep="\n")


if __name__ == "__main__":
    main()
