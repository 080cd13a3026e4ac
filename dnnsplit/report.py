"""One self-contained HTML page from an executed notebook: its prose, figures and tables, without the code."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from dnnsplit.errors import OptionError
from dnnsplit.files import write_text


def write_report(notebook: str | Path, out: str | Path, title: str = "dnnsplit") -> Path:
    """Convert an executed notebook to one HTML page with everything inside.

    Parameters
    ----------
    notebook : executed; code cells are left out, their outputs stay
    out : path of the page
    title : of the page
    """
    try:
        document = nbformat.read(notebook, as_version=4)
    except (OSError, nbformat.reader.NotJSONError) as error:
        raise OptionError(f"{notebook} is no executed notebook: {error}") from None
    document.metadata["title"] = title
    exporter = HTMLExporter(exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, embed_images=True)
    body, _ = exporter.from_notebook_node(document)
    return write_text(out, body)
