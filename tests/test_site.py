"""The site that `make docs` builds: every name and command has an entry, links lead somewhere, pictures have words, code runs."""

import argparse
import ast
import contextlib
import importlib
import io
import json
import posixpath
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import onnx
import pytest
from helpers.paths import ROOT
from helpers.small_models import conv_net
from PIL import Image

from dnnsplit.cli.main import main
from dnnsplit.cli.running import _parser
from dnnsplit.ground.files import sha256

LIGHT = ("00-quickstart", "04-split")
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
OWN_MODEL = ROOT / "docs" / "how-to" / "your-model.md"
STEP = re.compile(r"^    (dnnsplit [^\n]*)$|^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class Page(HTMLParser):
    """What one page of the site has: anchors, links, pictures, what a browser loads, and its words."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.images, self.loads, self.words = set(), [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.images.append((found.get("src"), found.get("alt")))
        if tag in ("script", "img", "iframe", "source") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "preconnect", "icon"):
            self.loads.append(found["href"])

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site with two executed notebooks; Sphinx takes its warnings for errors."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "website.py"), "-o", str(out), "--run", *LIGHT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def site(built):
    """Every page by its path."""
    return {path.relative_to(built / "html").as_posix(): Page(path) for path in sorted((built / "html").rglob("*.html"))}


@pytest.fixture(scope="module")
def docs():
    """The modules of docs/."""
    sys.path.insert(0, str(ROOT / "docs"))
    yield {name: importlib.import_module(name) for name in ("reference", "website")}
    sys.path.remove(str(ROOT / "docs"))
    for name in ("reference", "website"):
        del sys.modules[name]


def commands(parser, name="dnnsplit"):
    """Every command with its parser."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from commands(command, f"{name} {word}")


def test_every_public_name_has_an_entry(site):
    import dnnsplit as ds

    names = [*ds.__all__, *(f"{room}.{name}" for room in ("examples", "plots") for name in getattr(ds, room).__all__)]
    entries = {entry for page in site.values() for entry in page.ids}
    missing = [name for name in names if f"dnnsplit.{name}" not in entries and f"module-dnnsplit.{name}" not in entries]
    assert missing == ["examples", "plots", "examples.scenes"]  # rooms, whose pages are, and what has its own
    assert {f"api/{name.split('.')[-1]}.html" for name in missing} <= set(site)


def test_every_command_and_option_has_an_entry(site):
    page = site["commands.html"]
    for name, command in list(commands(_parser()))[1:]:
        assert name.replace(" ", "-") in page.ids
        for option in command._option_string_actions:
            if option not in ("-h", "--help"):
                assert f"cmdoption-{name.replace(' ', '-')}-{option.lstrip('-')}" in page.ids, (name, option)


def test_every_room_and_figure_has_its_place(site, docs):
    assert {f"api/{room}.html" for room in docs["reference"].rooms()} <= set(site)
    shown = {Path(source).name for source, _ in site["gallery.html"].images}
    assert {path.with_suffix(".svg").name for path in (ROOT / "figures").rglob("*.json")} <= shown


def test_every_link_within_the_site_leads_somewhere(site, built):
    lost, files = [], {path.relative_to(built / "html").as_posix() for path in (built / "html").rglob("*")}
    for name, page in site.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            if inside not in files or (parts.fragment and inside in site and unquote(parts.fragment) not in site[inside].ids):
                lost.append((name, link))
    assert lost == []


def test_every_picture_has_words(site, built):
    pictures = [(name, *image) for name, page in site.items() for image in page.images]
    assert len(pictures) > 30
    for name, source, words in pictures:
        assert words, (name, source)
        assert not re.search(r"\.(png|svg|jpe?g)$", words), (name, words)  # the name of a file is none
        assert source.startswith("data:") or ((built / "html" / name).parent / unquote(source)).is_file(), (name, source)


def test_pages_load_nothing_from_elsewhere(site, built):
    assert [(name, load) for name, page in site.items() for load in page.loads if urlsplit(load).netloc] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in (built / "html").rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", styles) == []


def test_a_notebook_says_whether_it_was_executed(site, built):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads((built / "pages" / "notebooks" / path.name).read_text(encoding="utf-8"))["cells"]
        outputs = any(cell.get("outputs") for cell in cells)
        text = site[f"notebooks/{path.stem}.html"].text
        assert outputs == bool(re.search(r"Executed on \d{4}-\d\d-\d\d in \d+ s", text))
        assert outputs != ("Not executed here" in text)
        assert outputs or path.stem not in LIGHT


def test_outputs_are_those_of_the_notebook_as_it_is_now(docs, tmp_path):
    website = docs["website"]
    source = ROOT / "notebooks" / "04-split.ipynb"
    document = json.loads(source.read_text(encoding="utf-8"))
    [code] = [cell for cell in document["cells"] if "pd.DataFrame([vars(" in "".join(cell["source"])]
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "told by a run"}]
    row = {"notebook": "04-split", "status": "done", "seconds": 3.0, "output": str(tmp_path / "04-split.ipynb")}
    record = {"row": row, "parameters": {"max_noise": 0.03}, "versions": {"dnnsplit": "0.1.0"}, "inputs": {}}
    (tmp_path / "04-split.ipynb").write_text(json.dumps(document), encoding="utf-8")
    page = tmp_path / "pages" / "notebooks" / "04-split.ipynb"

    def laid_out(digest, inputs):
        known = record | {"notebook_sha256": digest, "inputs": inputs}
        (tmp_path / "04-split.json").write_text(json.dumps(known), encoding="utf-8")
        website.lay_out(tmp_path / "pages", website.recorded(tmp_path, source.parent))
        return page.read_text(encoding="utf-8")

    found = laid_out(sha256(source), {"04-split.ipynb": sha256(source)})
    assert "told by a run" in found
    assert "in 3 s by dnnsplit 0.1.0, with `max_noise = 0.03`." in found
    assert "has changed since" not in found
    assert "has changed since" in laid_out(sha256(source), {"04-split.ipynb": "0" * 64})
    found = laid_out("0" * 64, {})  # the notebook was another one
    assert "told by a run" not in found
    assert "Not executed here" in found


def test_words_and_papers_are_explained(site):
    words = """layer tensor block server link assignment quantized scheme noise front form source test-bed objective plan part
        stage bundle profile room agent regime calibration overhead relay verification confidence"""
    terms = {anchor.removeprefix("term-") for anchor in site["glossary.html"].ids if anchor.startswith("term-")}
    assert set(words.split()) <= terms
    papers = site["bibliography.html"].text
    for path in (ROOT / "dnnsplit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef
            told = " ".join((ast.get_docstring(node) or "").split()) if isinstance(node, kinds) else ""
            titles = re.findall(r'[A-Z]\. \w+(?: et al\.)?, "([^"]{20,})"', told)
            names = re.findall(r"\b([A-Z][a-z]+)(?: and ([A-Z][a-z]+))?,(?: [^(),;]+,)*[^(),;]* (?:19|20)\d\d\b", told)
            for cited in (*titles, *(name for some in names for name in some)):
                assert cited in papers, (path.name, cited)


def test_the_page_of_an_own_model_leads_from_the_file_to_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = onnx.load(conv_net(tmp_path / "model.onnx", size=24))
    model.graph.input[0].name = "input"
    for node in model.graph.node:
        node.input[:] = ["input" if name == "x" else name for name in node.input]
    onnx.save(model, "model.onnx")
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (64, 20, 30, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i:02}.jpg")
    elsewhere = ("probe", "power", "serve", "agent", "deploy")  # they need another host, or listen until they are ended
    less = {"profile": ["--runs", "5", "--splits", "0"]}
    names, done = {}, []
    for command, code in STEP.findall(OWN_MODEL.read_text(encoding="utf-8")):
        if code:
            exec(compile(code, OWN_MODEL.name, "exec"), names)
            continue
        name, *arguments = shlex.split(command, comments=True)[1:]
        if name not in elsewhere:
            assert main([name, *arguments, *less.get(name, [])]) == 0, (command, capsys.readouterr())
            done.append(name)
    assert {"profile", "profile-join", "noise", "network", "split", "pareto", "cut"} <= {*done}
    median, promised = capsys.readouterr().out.splitlines()[-1].split()
    assert float(median) > 0
    assert float(promised) > 0


@pytest.mark.parametrize("page", [page for page in HOW_TO if page != OWN_MODEL], ids=lambda path: path.stem)
def test_the_code_of_a_how_to_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, page.name, "exec"), names)


@pytest.mark.parametrize("page", [*HOW_TO, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.stem)
def test_commands_on_a_page_are_those_that_there_are(page):
    known = dict(commands(_parser()))
    for line in re.findall(r"^ +(dnnsplit .*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        words = shlex.split(line, comments=True)
        name = next((n for size in (3, 2) if (n := " ".join(words[:size])) in known), None)
        assert name, line
        given = {word for word in words if re.match(r"--?[a-z]", word)}
        assert given <= set(known[name]._option_string_actions), line
