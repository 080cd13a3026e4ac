"""No loader lets an error of another library through, whatever the file: each refuses by its own class, in our words."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.cutting.plan_set import PlanSet
from dnnsplit.deployment.hosts import read_hosts
from dnnsplit.deployment.stage.config import Config
from dnnsplit.examples import pictures
from dnnsplit.examples.shipped import read_images, tiny
from dnnsplit.graph.foreign import domains_and_places
from dnnsplit.noise.journal import read_journal
from dnnsplit.profiling.factors import Factors
from dnnsplit.profiling.wire_forms import WireForms
from dnnsplit.sweep.jobs import jobs_of
from dnnsplit.sweep.notebook import parameters_of
from dnnsplit.sweep.report import write_report
from tests.helpers import bad_files, small_models

FEW = (None, True, -1, 2**70, "\x00", "y" * 5000, [], [[]], {"a": 1}, [1, "a", None])
FOREIGN = ("Errno", "Error:", " at 0x", "codec can't", "<unicode string>", "tokenizing", "Traceback", "embedded null")
TIMES = "layer,server,precision,seconds\na,s,float32,1\n"
FORMS = "tensor,precision,form,server,size_bytes,size_bytes_95,encode_s,decode_s,lossless\nt,float32,zlib,s,1,1,1,1,True\n"
FACTORS = "op_type,precision,factor\nConv,float32,2\n"
NOISE = "a,b,noise\n0,0,0\n1,0,0.5\n"
CELL = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["a = 1\n", "b = 2"], "execution_count": 1,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]}  # fmt: skip
NOTEBOOK = {"cells": [CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
NETWORK = {"source": "a", "servers": [{"name": "a", "compute": "2 W", "memory": "2 GB"}, {"name": "b"}],
           "links": [{"source": "a", "target": "b", "bandwidth": "5 MB/s", "latency": "5 ms"}]}  # fmt: skip
CONFIG = {"bundle": "b", "server": "s", "host": "h", "port": 1, "peers": {"a": "b:1"}, "deadline_s": 1, "in_flight": 3,
          "tls": {"key": "k", "cert": "c", "ca": "d"}, "emulation": {}, "parent_pid": 3}  # fmt: skip
RECORD = {"row": {"run": "n", "notebook": "n.ipynb", "status": "done", "cell": "", "error": "", "seconds": 1.0, "cpu_s": 1.0,
                  "output": "n.ipynb", "results": {"z": 1}}, "parameters": {"a": 1}, "own": ["out"], "notebook": "n.ipynb",
          "notebook_sha256": "0", "versions": {"python": "3"}, "inputs": {"a.csv": "0"}, "outputs": {"b.csv": "0"}}  # fmt: skip
PLANS = {"schema": 2, "model_name": "m", "links": [{"source": "a", "target": "b", "bandwidth_bytes_per_s": 1e6}],
         "plans": [{"folder": "f", "digest": "d", "noise": 0.1, "fixed": 1.0, "per_bandwidth": [1.0]}]}  # fmt: skip


def told(load, path, error, wrong, kind):
    """Load; note whether it was refused otherwise than it should be. Return whether it was refused."""
    if kind == "a name with NUL":
        error = (error, ds.OptionError)  # some refuse it as an argument already
    try:
        load(path)
    except error as refused:
        text = str(refused)
        if foreign := [words for words in FOREIGN if words in text]:
            wrong.append(f"{kind}: {foreign} in {text[:300]}")
        if len(text) > 30_000:
            wrong.append(f"{kind}: {len(text)} characters")
        return True
    except Exception as other:
        wrong.append(f"{kind}: {type(other).__name__}: {str(other)[:300]}")
        return True
    return False


def sub(folder, name):
    (folder / name).mkdir()
    return folder / name


def inside(folder, name, load):
    """Return a loader of files that loads the folder that has a link to the file under a name."""

    def loaded(path):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / name).symlink_to(path)
        return load(folder)

    return loaded


def no_content(folder):
    """Yield what every loader must refuse."""
    yield from bad_files.places(sub(folder, "places"))
    yield from bad_files.contents(sub(folder, "contents"))


def picture(path):
    return pictures.read([path], ds.Preprocessing(), np.dtype("float32"), (1, 3, 8, 8))


def every_loader(folder):
    """Return loaders, their errors, and what else they are given, by name."""
    yaml_file, run = (
        folder / "s.yaml",
        {"notebook": "n.ipynb", "name": "n", "parameters": {"a": 2}, "grid": {"b": [1]}, "needs": []},
    )
    (folder / "n.ipynb").write_text(json.dumps(NOTEBOOK))

    def sweep(path):
        yaml_file.unlink(missing_ok=True)
        yaml_file.symlink_to(path)
        return jobs_of(yaml_file, {}, {}, folder)

    def wrong(document, values=bad_files.ODD_VALUES):
        return lambda there: bad_files.wrong_json(there, document, values)

    def table(good):
        return lambda there: bad_files.csv_texts(there, good)

    texts = bad_files.json_texts
    return {
        "model": (ds.load, ds.ModelError, [bad_files.onnx_files]),
        "domains": (domains_and_places, ds.ModelError, [bad_files.onnx_files]),
        "network": (ds.Network.load, ds.NetworkError, [bad_files.yaml_texts, texts, wrong(NETWORK)]),
        "hosts": (read_hosts, ds.DeployError, [bad_files.yaml_texts, texts, wrong({"a": "1.2.3.4:70", "b": "[::1]:80"})]),
        "sweep": (sweep, ds.OptionError, [bad_files.yaml_texts, texts, wrong({"parameters": {"a": 1}, "runs": [run]})]),
        "notebook": (parameters_of, ds.OptionError, [texts, wrong(NOTEBOOK)]),
        "report": (lambda path: write_report(path, folder / "out.html"), ds.OptionError, [texts, wrong(NOTEBOOK, FEW[:6])]),
        "config": (Config.load, ds.DeployError, [texts, wrong(CONFIG)]),
        "plans": (inside(folder / "set", "adaptive.json", PlanSet.load), ds.DeployError, [texts, wrong(PLANS)]),
        "times": (ds.LayerTimes.load, ds.ProfileError, [table(TIMES)]),
        "forms": (WireForms.load, ds.ProfileError, [table(FORMS)]),
        "factors": (Factors.load, ds.ProfileError, [table(FACTORS)]),
        "noise": (ds.NoiseSamples.load, ds.NoiseError, [table(NOISE)]),
        "journal": (lambda path: read_journal(path, {"a": 1}), ds.NoiseError, [bad_files.array_files]),
        "images": (read_images, ds.OptionError, [bad_files.array_files]),
        "picture": (picture, ds.OptionError, [bad_files.picture_files]),
        "record": (inside(folder / "run", "run.json", ds.results), ds.OptionError, [texts, wrong(RECORD)]),
    }


LOADERS = ("model", "domains", "network", "hosts", "sweep", "notebook", "report", "config", "plans", "times", "forms", "factors",
           "noise", "journal", "images", "picture", "record")  # fmt: skip


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.filterwarnings("ignore:Your element with mimetype")
@pytest.mark.filterwarnings("ignore:Cell is missing an id field")
def test_a_loader_refuses_by_its_own_error(tmp_path, name):
    loaders = every_loader(sub(tmp_path, "own"))
    assert {*LOADERS} == {*loaders}
    load, error, groups = loaders[name]
    wrong = []
    for kind, path in no_content(tmp_path):
        absent = name == "journal" and kind == "missing"  # nothing was measured yet
        linked = name in ("sweep", "plans", "record") and kind == "a name with NUL"  # no link can lead there
        if not linked and not told(load, path, error, wrong, kind) and not absent:
            wrong.append(f"{kind}: it is taken")
    for i, group in enumerate(groups):
        for kind, path in group(sub(tmp_path, f"group{i}")):
            told(load, path, error, wrong, kind)
    assert not wrong, "\n".join(wrong)


def test_a_plan_refuses_by_our_error(tmp_path):
    ds.split(*tiny(), max_noise=0.02).save(tmp_path / "plan.json")
    document, wrong = json.loads((tmp_path / "plan.json").read_text()), []
    for kind, path in (*no_content(tmp_path), *bad_files.json_texts(sub(tmp_path, "json"))):
        assert told(ds.Plan.load, path, ds.DnnSplitError, wrong, kind), kind
    for kind, path in bad_files.wrong_json(sub(tmp_path, "plan"), document):
        told(lambda path: repr(ds.Plan.load(path)), path, ds.DnnSplitError, wrong, kind)
    assert not wrong, "\n".join(wrong)


def test_a_bundle_refuses_by_our_error(tmp_path):
    graph = ds.load(small_models.conv_net(tmp_path / "m.onnx"))
    network = ds.Network([ds.Server(s, 2.0, 1.0) for s in "dc"], [ds.Link("d", "c", 1e6), ds.Link("c", "d", 1e6)], "d")
    rows = [(layer, server, "float32", 0.1) for layer in graph.layer_names for server in "dc"]
    times = ds.LayerTimes.from_frame(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    pins = {name: "dc"[i % 2] for i, name in enumerate(graph.topological)}
    ds.cut(graph, ds.split(graph, network, times, pins=pins), tmp_path / "bundle", check=False)
    document, wrong = json.loads((tmp_path / "bundle" / "bundle.json").read_text()), []
    load = inside(tmp_path / "other", "bundle.json", ds.Bundle.load)
    for kind, path in (*no_content(tmp_path), *bad_files.json_texts(sub(tmp_path, "json"))):
        if kind != "a name with NUL":  # no link can lead there
            assert told(load, path, ds.DeployError, wrong, kind), kind
    document["plan"] = {"cost": {"transfers": document["plan"]["cost"]["transfers"][:1], "compute_s": {"d": 1.0}}}
    for kind, path in bad_files.wrong_json(sub(tmp_path, "wrong"), document, FEW):
        shutil.copy(path, tmp_path / "bundle" / "bundle.json")
        told(lambda _: ds.Bundle.load(tmp_path / "bundle"), path, ds.DeployError, wrong, kind)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", ["layers.csv", "tensors.csv", "noise.csv", "times.csv", "network.yaml"])
def test_an_instance_refuses_by_our_error(tmp_path, file):
    tiny().save(tmp_path / "instance")
    good, wrong = (tmp_path / "instance" / file).read_text(), []
    (tmp_path / "instance" / file).unlink()

    def load(path):
        (tmp_path / "instance" / file).unlink(missing_ok=True)
        (tmp_path / "instance" / file).symlink_to(path)
        return ds.Instance.load(tmp_path / "instance")

    tables = bad_files.csv_texts(sub(tmp_path, "tables"), good) if file.endswith("csv") else ()
    for kind, path in (*no_content(tmp_path), *tables):
        if kind != "a name with NUL":
            told(load, path, ds.DnnSplitError, wrong, kind)
    assert not wrong, "\n".join(wrong)
