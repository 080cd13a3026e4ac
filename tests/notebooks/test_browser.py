"""Every notebook as a person meets it: JupyterLab in Chromium, sliders moved by hand; and the report."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import matplotlib.font_manager
import nbformat
import pytest
from helpers.notebook_files import notebook
from helpers.paths import ROOT
from helpers.processes import started, wait_until
from helpers.small_parameters import SMALL, small_deployment

import dnnsplit as ds
from dnnsplit.sweep.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium, as root")
TOKEN = "a-test"
LIMIT_S = 600  # for what takes seconds on an idle machine
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
OWN = ("00-quickstart", "04-split")  # have tests of their own
NEEDS = {"train-yolo11n": ("ultralytics", "training needs ultralytics and torch: pip install -e '.[train]'")}
LARGE = ("*.pt", "yolo11?.onnx", "yolo11?-seg.onnx", "yolo11?-cls.onnx")  # exported, not shipped
DATA = "../data/networks"
SMALLER = {  # than what other tests run
    "02-profile.ipynb": {"forms": ["png-1"]},
    "03-noise.ipynb": {"networks": [f"{DATA}/device-edge.yaml"]},
    "05-pareto.ipynb": {
        "networks": [f"{DATA}/device-edge.yaml"], "limits": [0.0, 0.05], "regime_limits": [0.0, 0.05], "weights": [[1.0, 0.0]],
        "bandwidths": ["1 MB/s", "10 MB/s"], "energy_shares": [0.5, 1.0],
    },
    "06-latency-test.ipynb": {"networks": [f"{DATA}/device-edge-cloud.yaml"], "limits": [0.05]},
    "train-yolo11n.ipynb": {"train_scenes": 32, "val_scenes": 8, "epochs": 1, "held_out": 4, "least_map50": 0.0},
}  # fmt: skip
# what went wrong: a cell, or the kernel
ERRORS = ", ".join((
    ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']",
    ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']",
    ".jp-Dialog",
))  # fmt: skip
ENDED = """errors => {
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent.trim());
    return document.querySelector(errors) || (prompts.length && prompts.every(text => /^\\[\\d+\\]:$/.test(text)));
}"""
SEEN = """figure => {
    const [at, panel] = [figure, figure.closest('.jp-Notebook')].map(e => e.getBoundingClientRect());
    return at.width > 0 && at.height > 0 && at.left >= panel.left && at.right <= panel.right
        && at.top < panel.bottom && at.bottom > panel.top;
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Debian's Chromium runs as root only without its sandbox, as in a container
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1280, "height": 1024})
        context.set_default_timeout(1000 * LIMIT_S)
        yield context
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def server():
    """JupyterLab with settings of its own; yields its address and the folder that it shows."""
    # short, as are paths of sockets: kernels are talked to through those, as nobody else can then take their ports
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as short:
        folder = Path(short)
        # all cells stay in the page, not those in sight alone; and nobody is asked about news
        for plugin, values in {
            "notebook-extension/tracker": {"windowingMode": "none"},
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        }.items():
            path = folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        places = {"HOME": "", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": ""}
        places |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
        environment = os.environ | {name: str(folder / place) for name, place in places.items()}
        # with the fonts that Matplotlib has found already, when it was imported here: it tells on stderr when that takes long
        environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()
        root, log = folder / "root", folder / "lab.log"
        root.mkdir()
        options = ["--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root", f"--IdentityProvider.token={TOKEN}"]
        command = [sys.executable, "-m", "jupyterlab", *options, "--KernelManager.transport=ipc", root]
        with log.open("w") as file, started(*command, stdout=file, stderr=file, env=environment) as process:
            yield wait_until(lambda: answering(process, log), LIMIT_S, log.read_text), root
            process.terminate()  # so that it ends its kernels
            process.wait(LIMIT_S)


def answering(process, log):
    """The address of a JupyterLab, once it answers there."""
    assert process.poll() is None, log.read_text()
    if found := re.search(r"(http://127\.0\.0\.1:\d+)/lab", log.read_text()):
        with contextlib.suppress(urllib.error.URLError):
            asked(f"{found[1]}/api")
            return found[1]
    return ""


def asked(address, method="GET"):
    """What a JupyterLab answers."""
    request = urllib.request.Request(address, headers={"Authorization": f"token {TOKEN}"}, method=method)
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        return answer.read()


@pytest.fixture
def lab(server, page):
    """The server with a copy of the notebooks and the data, so that nothing of the repository is written; ends the kernel."""
    address, root = server
    for name in ("notebooks", "data"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns(".*", "runs", *LARGE))
    yield server
    page.close()  # first, as it would ask for the kernel again
    for session in json.loads(asked(f"{address}/api/sessions")):
        asked(f"{address}/api/sessions/{session['id']}", "DELETE")
    for folder in root.iterdir():
        shutil.rmtree(folder)


def run_all(page, lab, name, **given):
    """Run all cells of a notebook with some parameters; see no error, a figure where there is to be one, and the last of all."""
    address, root = lab
    path = root / "notebooks" / f"{name}.ipynb"
    document = nbformat.read(path, 4)
    if given:
        lines = "\n".join(f"{key} = {value!r}" for key, value in given.items())
        tagged = next(i for i, cell in enumerate(document.cells) if "parameters" in cell.metadata.get("tags", []))
        document.cells.insert(tagged + 1, nbformat.v4.new_code_cell(lines))
        nbformat.write(document, path)
    page.goto(f"{address}/lab/tree/notebooks/{name}.ipynb?reset&token={TOKEN}")
    page.locator(".jp-Notebook .jp-CodeCell").nth(3).wait_for()
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(ENDED, arg=ERRORS)
    assert not page.locator(ERRORS).all_inner_texts()
    shown = "\n".join(page.locator(".jp-OutputArea-output").all_inner_texts())
    assert not re.search(r"Warning|Traceback|IProgress|Error displaying widget", shown), shown

    code = [cell.source for cell in document.cells if cell.cell_type == "code"]
    cells = page.locator(".jp-CodeCell")
    assert cells.count() == len(code)
    for place, source in enumerate(code):
        if re.search(r"ds\.plots\.(?!described)\w+\(", source):
            cells.nth(place).locator(".jp-OutputArea-output img").first.wait_for(timeout=120_000)
    figures = page.locator(".jp-OutputArea-output img")
    last = (figures if figures.count() else page.locator(".jp-OutputArea-output")).last
    last.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.querySelectorAll('.jp-OutputArea-output img')].every(e => e.naturalWidth > 0)")
    assert last.evaluate(SEEN)


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name not in OWN])
def test_a_notebook_runs_in_jupyterlab(page, lab, name, tmp_path):
    library, reason = NEEDS.get(name, ("", ""))
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(reason)
    given = small_deployment(tmp_path) if name == "09-deploy" else SMALL.get(f"{name}.ipynb", {})
    run_all(page, lab, name, **given | SMALLER.get(f"{name}.ipynb", {}))


def test_quickstart_runs_in_jupyterlab(page, lab):
    run_all(page, lab, "00-quickstart")
    assert page.locator(".jp-OutputArea-output img").count() >= 2  # the placement and the front
    assert page.locator(".jp-OutputArea-output table").count() >= 4
    assert "optimal, by elimination" in page.locator(".jp-Notebook").inner_text()


def test_sliders_redraw_the_plan(page, lab):
    run_all(page, lab, "04-split")
    drawing = page.locator(".jp-OutputArea-output .widget-html svg")
    drawing.wait_for()
    limit, bandwidth = (slider.bounding_box() for slider in page.locator(".widget-slider .noUi-target").all())
    assert (limit["x"], limit["width"]) == (bandwidth["x"], bandwidth["width"])  # one below the other
    seen, figures = [drawing.inner_html()], [page.locator(".widget-html table").inner_text()]
    assert "latency" in figures[0]
    assert "energy" in figures[0]
    for place, key in ((0, "Home"), (1, "Home"), (1, "End")):  # no noise at all; a hundredth of the bandwidth, a hundredfold
        handle = page.locator(".widget-slider .noUi-handle").nth(place)
        handle.focus()
        handle.press(key)
        page.wait_for_function(
            "old => document.querySelector('.jp-OutputArea-output .widget-html svg')?.innerHTML !== old", arg=seen[-1]
        )
        seen.append(drawing.inner_html())
        figures.append(page.locator(".widget-html table").inner_text())
    assert len(set(seen)) == 4
    assert len(set(figures)) == 4


def test_the_report_opens_without_a_network(page, tmp_path):
    path = notebook(tmp_path / "n.ipynb", "import dnnsplit as ds\nds.examples.tiny().network", "ds.publish(value=x)")
    document, heads = nbformat.read(path, 4), [f"A heading of some length, number {i}" for i in range(9)]
    document.cells += [nbformat.v4.new_markdown_cell(f"## {head}") for head in heads]
    nbformat.write(document, path)
    runs = ds.run(path, out=tmp_path / "out", progress=False)
    report = write_report(tmp_path / "out" / "n" / "n.ipynb", tmp_path / "report.html", title="A report", runs=runs)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert page.title() == "A report"
    assert asked == [report.as_uri()]
    assert page.locator("nav a").all_inner_texts() == [*heads, "The runs", "Versions", "Parameters and files"]
    assert page.locator("table").count() >= 5
    width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(width)
    page.set_viewport_size({"width": 1024, "height": 700})
    assert page.evaluate(width)
