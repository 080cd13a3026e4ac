"""Build the site of the package: ``python docs/website.py``, which is part of ``make docs``; it ends up in ``dist/docs/html``.

Pages are those of ``docs/``, some of the repository beside it, the notebooks with their outputs, and a reference written from the
code. Sources are laid out in ``dist/docs/pages``; links to what is no page become links to a copy of the file.

Light notebooks are run here, in a copy of the repository's data (``dist/docs/work``), through our own runner, which keeps a run
while nothing has changed that it depends on. The others, which measure for minutes, are shown as they were run before, by
``make figures`` or ``dnnsplit run``, where ``data/runs`` has a run of the same notebook; where it has none the page says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dnnsplit as ds
from dnnsplit.ground.files import sha256
from dnnsplit.sweep.notebook import MIME, parameters_of

sys.path.insert(0, str(Path(__file__).parent))

from reference import write_reference

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "_readme.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md",
    "data/README.md": "tables.md", "data/models/README.md": "shipped-model.md",
    "notebooks/README.md": "notebooks/README.md",
}  # fmt: skip
WRITTEN = ("data", "out", "figures", "build")  # folders that notebooks are given; where they are is nobody's concern
# They measure for minutes, or train.
HEAVY = ("02-profile", "03-noise", "06-latency-test", "07-scale", "09-deploy", "train-yolo11n")
RUNS = ROOT / "data" / "runs"
LINK = re.compile(r"(\]\(|^```\{figure\} |^:::\{figure\} |^:img-top: |^:link: (?=\.\./))([^)\s#]+)", re.MULTILINE)
DOCS = sorted((ROOT / "docs").rglob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
Run = tuple[Mapping[str, Any], Path]  # its record, and the folder of its notebook
WIDGET = "application/vnd.jupyter.widget-view+json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the site; return the exit code of Sphinx, which is not 0 where there is a warning."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "dist" / "docs", help="folder of the site (default: dist/docs)")
    light = [path.stem for path in NOTEBOOKS if path.stem not in HEAVY]
    parser.add_argument(
        "--run", nargs="*", default=light, metavar="NOTEBOOK", help=f"which are run here (default: {' '.join(light)})"
    )
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    execute(options.run, out / "work")
    runs = [*recorded(out / "work" / "runs", out / "work" / "notebooks"), *recorded(RUNS, ROOT / "notebooks")]
    shutil.rmtree(out / "pages", ignore_errors=True)
    lay_out(out / "pages", runs)
    from sphinx.cmd.build import build_main

    shutil.rmtree(out / "html", ignore_errors=True)
    folders = ["-c", str(ROOT / "docs"), "-d", str(out / "read"), str(out / "pages"), str(out / "html")]
    code = build_main(["-q", "-W", "--keep-going", "-E", *folders])
    print(out / "html" / "index.html" if code == 0 else f"the site has faults, which are told above (Sphinx ended with {code})")
    return code


def execute(notebooks: Iterable[str], folder: Path) -> None:
    """Run notebooks in a copy of what they read."""
    for path in (ROOT / "data").rglob("*"):
        copied = folder / path.relative_to(ROOT)
        newer = copied.exists() and copied.stat().st_mtime >= path.stat().st_mtime  # a notebook wrote it here
        if path.is_file() and not newer and RUNS not in path.parents:
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copied)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", dirs_exist_ok=True)
    for name in notebooks:
        rows = ds.run(folder / "notebooks" / f"{name}.ipynb", out=folder / "runs", progress=False).frame
        row = rows.iloc[0]
        if row["status"] not in ("done", "kept"):
            message = f"{name} failed in {row['cell']}: {row['error']}; see {row['output']}"
            raise SystemExit(message)
        print(f"{name}: {row['status']}, {row['seconds']:.0f} s", flush=True)


def recorded(folder: Path, notebooks: Path) -> list[Run]:
    """Return the runs in a folder, those that changed the fewest parameters first, and of these the last one."""
    paths = sorted(folder.rglob("*.json"), key=lambda path: -path.stat().st_mtime)
    found = [(record, notebooks) for path in paths if (record := _record(path))]
    return sorted(found, key=lambda run: len(_changed(run[0])))


def lay_out(pages: Path, runs: Sequence[Run]) -> None:
    """Write all sources of the site; a notebook has the outputs of the first run of it as it is now."""
    ours = {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix() for path in DOCS}
    pairs = [*(PAGES | ours).items(), ("README.md", "how-to/_readme.md")]
    for source, page in (pair for pair in pairs if (ROOT / pair[0]).exists()):
        text = (ROOT / source).read_text(encoding="utf-8")
        _write(pages / page, with_figures(relinked(text, source, page, pages), pages))
    found: dict[tuple[str, str], Run] = {}
    for run in runs:
        found.setdefault((run[0]["row"]["notebook"], run[0]["notebook_sha256"]), run)
    for path in NOTEBOOKS:
        record, folder = found.get((path.stem, sha256(path)), ({}, path.parent))
        document = json.loads((Path(record["row"]["output"]) if record else path).read_text(encoding="utf-8"))
        page = shown(document, _told(path.stem, record, folder), f"notebooks/{path.name}", pages)
        _write(pages / "notebooks" / path.name, json.dumps(page))
    write_reference(pages)


def with_figures(text: str, pages: Path) -> str:
    """Return a page that has all figures of a folder where ``<!-- figures: FOLDER -->`` stands."""

    def drawn(found: re.Match[str]) -> str:
        paths = (ROOT / found[1]).glob("*.json")
        return "\n".join(_figure(path, pages) for path in sorted(paths, key=lambda path: _number(path.stem)))

    return re.sub(r"<!-- figures: (\S+) -->", drawn, text)


def _figure(path: Path, pages: Path) -> str:
    numbers, image = json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".svg")
    title = re.sub(r"^figure(\d+)-", r"figure \1: ", path.stem).replace("-", " ")
    title = title[0].upper() + title[1:]
    place = image.relative_to(ROOT).as_posix()
    _copy(image, pages / place)
    told = {key: " ".join(numbers.get(key, "").split()) for key in ("alt", "caption")}
    return f"### {title}\n\n:::{{figure}} {place}\n:alt: {told['alt'] or title}\n\n{told['caption']}\n:::\n"


def _number(name: str) -> tuple[int, str]:
    found = re.match(r"figure(\d+)", name)
    return (int(found[1]) if found else 0, name)


def shown(document: dict[str, Any], note: str, source: str, pages: Path) -> dict[str, Any]:
    """Return a notebook as its page: a note below the title, links that lead somewhere, and pictures with words."""
    cells: list[dict[str, Any]] = []
    for cell in document["cells"]:
        text = "".join(cell["source"])
        if "injected-parameters" in cell["metadata"].get("tags", []):
            continue  # all parameters again; the note says which are others
        if cell["cell_type"] == "markdown":
            text = relinked(text, source, source, pages)
            if not cells:
                title, _, rest = text.partition("\n")
                text = f"{title}\n\n{note}\n\n{rest}"
        cells += _each_picture(cell | {"source": text})
    metadata = {key: value for key, value in document["metadata"].items() if key in ("kernelspec", "language_info")}
    return document | {"cells": cells, "metadata": metadata}


def _each_picture(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a cell as cells with a picture each, as MyST-NB knows one text per cell; only the first has the code."""
    if cell["cell_type"] != "code":
        return [cell]
    found = [cell | {"outputs": []}]
    words = _words(cell["source"])
    for output in map(_plain, cell["outputs"]):
        kinds = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
        if kinds:
            if "mystnb" in found[-1]["metadata"]:
                found.append(
                    {
                        "cell_type": "code",
                        "execution_count": None,
                        "source": "",
                        "metadata": {"tags": ["remove-input"]},
                        "outputs": [],
                    }
                )
            own = next((facts["alt"] for kind in kinds if "alt" in (facts := output["metadata"].get(kind, {}))), None)
            alt = own or (words.pop(0) if len(words) > 1 else "".join(words))
            found[-1]["metadata"] = found[-1]["metadata"] | {"mystnb": {"image": {"alt": alt or "What the code above draws."}}}
        found[-1]["outputs"].append(output)
    return [one | ({"id": f"{cell['id']}-{number}"} if number and "id" in cell else {}) for number, one in enumerate(found)]


def _words(code: str) -> list[str]:
    """Say what the pictures of a cell are, by the functions that draw them, in their order."""
    names = [name for name in re.findall(r"ds\.plots\.(\w+)\(", code) if not name.startswith("save")]
    return [" ".join((getattr(ds.plots, name).__doc__ or "").split("\n\n")[0].split()) for name in names]


def _plain(output: dict[str, Any]) -> dict[str, Any]:
    """Return an output without what is for a kernel, or for our runner."""
    data = output.get("data", {})
    if WIDGET in data:
        return {
            "output_type": "stream",
            "name": "stdout",
            "text": "Sliders: they answer in JupyterLab alone, where a kernel does.\n",
        }
    data.pop(MIME, None)
    return output


def _told(name: str, record: Mapping[str, Any], notebooks: Path) -> str:
    """Say how a notebook was run, or that it was not."""
    if not record:
        way = f"`dnnsplit run notebooks/{name}.ipynb`, and then `make docs`, puts them in"
        found = "What the shipped runs found is in the [gallery](../gallery.md), and on the pages of figures that it names"
        return f":::{{warning}}\nNot executed here: its outputs are missing below. {way}. {found}.\n:::"
    row, version = record["row"], record["versions"]["dnnsplit"]
    when = datetime.fromtimestamp(Path(row["output"]).stat().st_mtime, UTC).strftime("%Y-%m-%d")
    values = ", ".join(f"`{key} = {value!r}`" for key, value in _changed(record).items()) or "the parameters below"
    since = "" if _same(record, notebooks) else " Some of what it read, the package among it, has changed since."
    told = f"Executed on {when} in {row['seconds']:.0f} s by dnnsplit {version}, with {values}.{since}"
    return f":::{{note}}\n:class: executed\n{told}\n:::"


def _same(record: Mapping[str, Any], notebooks: Path) -> bool:
    """Return whether the files that a run read are as they were; their paths are relative to the folder of its notebook."""
    return all((notebooks / path).is_file() and sha256(notebooks / path) == known for path, known in record["inputs"].items())


def _record(path: Path) -> dict[str, Any]:
    """Return the record of a run that was finished; nothing of a file that is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        finished = record["row"]["status"] == "done" and Path(record["row"]["output"]).exists()
        return record if finished and {"parameters", "notebook_sha256", "versions", "inputs"} <= set(record) else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _changed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a run that are not the notebook's own."""
    path = ROOT / "notebooks" / f"{record['row']['notebook']}.ipynb"
    own = parameters_of(path) if path.is_file() else {}
    return {name: value for name, value in record["parameters"].items() if name not in WRITTEN and own.get(name, value) != value}


def relinked(text: str, source: str, page: str, pages: Path) -> str:
    """Return a page whose links to files of the repository lead to pages, or to copies of the files."""

    def linked(found: re.Match[str]) -> str:
        target = found[2]
        path = Path(os.path.normpath(ROOT / Path(source).parent / target))
        if "://" in target or target.startswith("mailto:") or not path.exists() or ROOT not in path.parents:
            return found[0]
        inside = path.relative_to(ROOT).as_posix()
        place = _place(inside, path)
        if path.is_file() and inside not in PAGES and not (inside.startswith("docs/") and path.suffix == ".md"):
            _copy(path, pages / place)
        return found[1] + os.path.relpath(place, Path(page).parent)

    return LINK.sub(linked, text)


def _place(inside: str, path: Path) -> str:
    """Return where a file or folder of the repository is on the site."""
    if inside == "README.md":
        return "index.md"
    if inside in PAGES:
        return PAGES[inside]
    if path.is_dir():
        parts = inside.split("/")
        room = parts[0] == "dnnsplit" and len(parts) > 1
        return f"api/{parts[1]}.rst" if room else "notebooks.md" if inside == "notebooks" else "architecture.md"
    return inside.removeprefix("docs/")


def _copy(path: Path, copied: Path) -> None:
    if path.suffix == ".ipynb":  # a page of its own
        return
    copied.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".md":
        _write(copied, "---\norphan: true\n---\n" + path.read_text(encoding="utf-8"))
    else:
        shutil.copy2(path, copied)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
