"""Small notebooks written by tests."""

import nbformat

PARAMETERS = "x = 2  # a number\nname = 'a'  # a text\nlimits = [0.1, 0.2]  # a list\nnothing = None  # may be missing"


def notebook(path, *cells, parameters=PARAMETERS):
    """Write a notebook with a tagged parameters cell and some code cells."""
    document = nbformat.v4.new_notebook()
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    document.cells = [first, *map(nbformat.v4.new_code_cell, cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(document, path)
    return path


def row_of(job, **told):
    """Return the row that a job leaves when it is done."""
    row = {
        "run": job.name,
        "notebook": job.notebook.stem,
        "status": "done",
        "cell": "",
        "error": "",
        "seconds": 1.0,
        "cpu_s": 0.5,
    }
    return {**row, "output": str(job.output), "results": {}, **told}
