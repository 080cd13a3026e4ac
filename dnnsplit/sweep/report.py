"""One self-contained HTML page from an executed notebook: its prose, figures and tables, and what they were made from."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter

from dnnsplit.ground.errors import shortened
from dnnsplit.ground.files import sha256, write_text
from dnnsplit.ground.json_file import read_json
from dnnsplit.ground.units import is_whole
from dnnsplit.sweep.notebook import NOTEBOOK, check_cells
from dnnsplit.sweep.record import read_record, versions
from dnnsplit.sweep.run import Runs

MANY = 12  # a folder with more files than this gets one row in the table of files
MOST_MINOR = 99  # of the versions of format 4
DIGITS = 16  # of a SHA-256 that are shown
CAPTION = "<figcaption>"  # begins the output that tells what the picture before it shows

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{css}
</style>
</head>
<body>
<nav aria-label="Contents"><details><summary>Contents</summary>
<ul>{contents}</ul></details></nav>
<main>
{body}
</main>
</body>
</html>
"""


def write_report(notebook: str | Path, out: str | Path, title: str = "dnnsplit", runs: Runs | None = None) -> Path:
    """Convert an executed notebook to one HTML page with everything inside; it needs no network and prints on A4.

    Parameters
    ----------
    notebook : str | Path
        Executed; code is left out, its outputs stay, in their order. A picture followed by an output that begins with
        ``<figcaption>`` is a figure with this caption; its text for who does not see it is ``alt`` of the picture's metadata.
    out : str | Path
        Path of the page.
    title : str, default "dnnsplit"
        Of the page.
    runs : Runs | None, optional
        Of the sweep behind it; their parameters, versions and hashes are added at the end.

    Raises
    ------
    OptionError
        There is no such notebook.
    """
    kind = replace(NOTEBOOK, unfit="is no executed notebook", missing="")
    found = read_json(notebook, kind, finite=False)
    minor = found.get("nbformat_minor") if isinstance(found, dict) else None
    if not is_whole(minor) or minor > MOST_MINOR or found.get("nbformat") != 4 or not isinstance(found.get("cells"), list):
        kind.refuse(notebook, "it is not of format 4")
    check_cells(notebook, found["cells"], kind)
    try:
        nbformat.validate(found)
    except nbformat.ValidationError as error:
        kind.refuse(notebook, shortened(error.message, 200))
    document = nbformat.versions[4].to_notebook_json(found)
    exporter = HTMLExporter(
        template_name="basic", exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, embed_images=True
    )
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = _described(cell["outputs"])
    document["cells"] = [cell for cell in document["cells"] if cell.get("outputs", True)]
    body, _ = exporter.from_notebook_node(document)
    body += _provenance(runs) if runs else ""
    body = _tables(re.sub(r'<a class="anchor-link".*?</a>', "", body))
    heads = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body)
    contents = "\n".join(f'<li><a href="#{anchor}">{text}</a></li>' for anchor, text in heads)
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return write_text(out, PAGE.format(title=html.escape(title), css=css, contents=contents, body=body))


def _described(outputs: list[Any]) -> list[Any]:
    """Outputs in which a picture and the caption that follows it are one figure."""
    found: list[Any] = []
    for output in outputs:
        caption = output.get("data", {}).get("text/html", "")
        drawn = found[-1].get("data", {}).get("image/png") if found else None
        if drawn is None or not caption.startswith(CAPTION):
            found.append(output)
            continue
        facts = {"alt": "", **found[-1]["metadata"].get("image/png", {}), "src": f"data:image/png;base64,{drawn.strip()}"}
        image = " ".join(f'{name}="{html.escape(str(value))}"' for name, value in facts.items())
        found[-1]["data"] = {"text/html": f"<figure><img {image}>{caption}</figure>"}
    return found


def _tables(body: str) -> str:
    """Tables whose heads say what they are heads of, each with its title in a frame that scrolls, also by keyboard."""

    def headed(part: re.Match[str]) -> str:
        return re.sub(r"<th(?=[\s>])", '<th scope="col"' if part[1] == "thead" else '<th scope="row"', part[0])

    body = re.sub(r"<(thead|tbody)>.*?</\1>", headed, body, flags=re.DOTALL)
    body = re.sub(r'<th scope="col"([^>]*)>(?:&nbsp;|\s)*</th>', r"<td\1></td>", body)
    number = itertools.count(1)

    def framed(table: re.Match[str]) -> str:
        return f'<div class="table" role="group" tabindex="0" aria-label="Table {next(number)}">{table[0]}</div>'

    return re.sub(r"(?:<(b|pre)\b[^>]*>[^<]*</\1>)?<table.*?</table>", framed, body, flags=re.DOTALL)


def _provenance(runs: Runs) -> str:
    """The runs; folded, because they are long: their versions, parameters and what they read and wrote, by content."""
    frame = runs.frame[["run", "status", "seconds", "cpu_s", "error"]]
    parts = [
        '<h2 id="runs">The runs</h2>',
        "<p>Status kept: nothing that the run depends on changed since it was done, and it was not done again.</p>",
        frame.to_html(index=False, float_format="{:.1f}".format, border=0),
        '<p class="paper">Versions, parameters, and the hashes of all files are on the screen only, not on paper.</p>',
        '<div class="screen">',
        '<h2 id="versions">Versions</h2>',
        _folded("Python and the packages", _table(("package", "version"), versions().items())),
        '<h2 id="parameters">Parameters and files</h2>',
        f"<p>Files with the first {DIGITS} digits of their SHA-256, as they were when the run ended.</p>",
    ]
    for job in runs.jobs:
        record = read_record(job)
        if record is None:
            continue
        values = [(name, json.dumps(value)) for name, value in record["parameters"].items()]
        files = [*_files("read", record["inputs"]), *_files("written", record["outputs"])]
        notebook = ("notebook", job.notebook.name, record["notebook_sha256"][:DIGITS])
        tables = _table(("parameter", "value"), values) + _table(("use", "file", "SHA-256"), [notebook, *files])
        parts.append(_folded(job.name, tables))
    return "\n".join([*parts, "</div>"])


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def _files(what: str, hashes: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """A row per file, and one for each folder that has many; a folder's hash is that of its files' names and hashes."""
    folders: dict[Path, dict[str, str]] = {}
    for name, known in hashes.items():
        folders.setdefault(Path(name).parent, {})[name] = known
    rows = []
    for folder, files in folders.items():
        if len(files) > MANY:
            rows.append((what, f"{folder}/ ({len(files)} files)", sha256(json.dumps(files, sort_keys=True))[:DIGITS]))
        else:
            rows += [(what, name, known[:DIGITS]) for name, known in files.items()]
    return rows


def _table(head: tuple[str, ...], rows: Any) -> str:
    """An HTML table of texts."""
    heads = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    cells = ["".join(f"<td>{html.escape(str(text))}</td>" for text in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table class='facts'><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
