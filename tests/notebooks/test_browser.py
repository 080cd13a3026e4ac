"""The notebooks as a person meets them: JupyterLab in Chromium, sliders moved by hand; and the report."""

import contextlib
import os
import re
import shutil
import sys
import urllib.error
import urllib.request

import nbformat
import pytest
from helpers.notebook_files import notebook
from helpers.paths import ROOT
from helpers.processes import started, wait_until

import dnnsplit as ds
from dnnsplit.sweep.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium")
TOKEN = "a-test"


@pytest.fixture(scope="module")
def page():
    with sync_api.sync_playwright() as playwright:
        # Debian's Chromium runs as root only without its sandbox, as in a container
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 2600})
        page.set_default_timeout(180_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebooks and the data; yields its address."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name in ("models", "networks", "profiles", "noise", "plans", "measurements"):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    # all cells stay in the page, not those in sight alone; and nobody is asked about news
    for plugin, values in {
        "notebook-extension/tracker": '{"windowingMode": "none"}',
        "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    }.items():
        path = folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(values)
    places = {"HOME": folder, "JUPYTER_CONFIG_DIR": folder / "config", "JUPYTERLAB_SETTINGS_DIR": folder / "settings"}
    environment = os.environ | {name: str(path) for name, path in places.items()}
    log = folder / "lab.log"
    with log.open("w") as file:
        options = ["--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root", f"--IdentityProvider.token={TOKEN}"]
        command = [sys.executable, "-m", "jupyterlab", *options, folder / "notebooks"]
        with started(*command, stdout=file, stderr=file, env=environment) as server:
            yield wait_until(lambda: answering(log), 90, log.read_text)
            server.terminate()  # so that it ends its kernels
            server.wait(60)


def answering(log):
    """The address of a JupyterLab, once it answers there."""
    if found := re.search(r"(http://127\.0\.0\.1:\d+)/lab", log.read_text()):
        with contextlib.suppress(urllib.error.URLError):
            urllib.request.urlopen(f"{found[1]}/api?token={TOKEN}", timeout=5).close()
            return found[1]
    return ""


def run_all(page, lab, name):
    """Open a notebook, run all of its cells, and return once the last has its number; no output may be an error."""
    page.goto(f"{lab}/lab/tree/{name}?reset&token={TOKEN}")
    page.locator(".jp-Notebook .jp-CodeCell").nth(3).wait_for()
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent.trim())"
    page.wait_for_function(f"() => {{ const p = {prompts}; return p.length && p.every(t => /^\\[\\d+\\]:$/.test(t)); }}")
    streams = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    errors = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
    assert not streams + errors
    shown = "\n".join(page.locator(".jp-OutputArea-output").all_inner_texts())
    assert not re.search(r"Warning|Traceback|IProgress|Error displaying widget", shown), shown


def test_quickstart_runs_in_jupyterlab(page, lab):
    run_all(page, lab, "00-quickstart.ipynb")
    assert page.locator(".jp-OutputArea-output img").count() == 2  # the placement and the front
    assert page.locator(".jp-OutputArea-output table").count() >= 4
    assert "optimal, by elimination" in page.locator(".jp-Notebook").inner_text()


@pytest.mark.parametrize(("name", "figures"), [("01-model", 1), ("05-pareto", 8), ("08-figures", 21)])
def test_a_notebook_runs_in_jupyterlab(page, lab, name, figures):
    run_all(page, lab, f"{name}.ipynb")
    assert page.locator(".jp-OutputArea-output img").count() == figures
    wide = "[...document.querySelectorAll('.jp-OutputArea-output img')].every(e => e.complete && e.naturalWidth > 200)"
    assert page.evaluate(wide)


def test_sliders_redraw_the_plan(page, lab):
    run_all(page, lab, "04-split.ipynb")
    drawing = page.locator(".jp-OutputArea-output .widget-html svg")
    drawing.wait_for()
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
