"""What goes into a notebook, the literals of its tagged cell or what a user gives instead; and what it publishes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dnnsplit.ground import kinds
from dnnsplit.ground.arguments import problem_of
from dnnsplit.ground.errors import OptionError, nearest, raise_problems, shortened
from dnnsplit.ground.files import plain
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.json_file import read_json
from dnnsplit.ground.units import SHARE
from dnnsplit.sweep.values import from_json, same, to_json

MIME = "application/vnd.dnnsplit.result+json"
CELLS = ("code", "markdown", "raw")
# what a table of runs has of its own
COLUMNS = ("sweep", "run", "notebook", "status", "cell", "error", "seconds", "cpu_s", "output")
MOST = 40  # parameters that are listed where none is like what was given
NOTEBOOK = Kind("is no notebook of format 4", OptionError, 2**28, "the notebook", "there is no notebook {path}")
KINDS = {
    "str": kinds.kind_of(str),
    "int": kinds.kind_of(int),
    "float": kinds.kind_of(float),
    "bool": kinds.kind_of(bool),
    "None": kinds.kind_of(None),
    "list": kinds.Kind(lambda value: isinstance(value, list), "a list", "lists"),
    "dict": kinds.Kind(lambda value: isinstance(value, dict), "a dictionary", "dictionaries"),
    "share": kinds.Kind(
        lambda value: isinstance(value, str) and SHARE.fullmatch(value) is not None,
        "a share such as '50 %'", "shares such as '50 %'",
    ),
}  # fmt: skip


class Parameter(NamedTuple):
    """What a notebook says of one of its parameters.

    Parameters
    ----------
    default : Any
        Its literal.
    kind : kinds.Kind
        Of the values that it takes, by its annotation.
    """

    default: Any
    kind: kinds.Kind


def declared(notebook: str | Path) -> dict[str, Parameter]:
    """Return what a notebook says of its parameters, in the cell tagged ``parameters``.

    An annotation is made of the names of `KINDS`, of ``list[...]``, and of ``or`` or ``|`` between them; in quotes it may say
    more than Python's own: ``max_noise: "float or share" = 0.05``. One that has other names is not checked.

    Parameters
    ----------
    notebook : str | Path
        Path of an ``.ipynb``.

    Returns
    -------
    dict[str, Parameter]
        By name.

    Raises
    ------
    OptionError
        No such file, no notebook, no tagged cell, or a default that is no literal.
    """
    path = Path(notebook)
    cells = [c for c in _code_cells(path) if "parameters" in c["metadata"].get("tags", [])]
    if len(cells) != 1:
        message = (
            f"{path.name} has {len(cells)} cells tagged 'parameters' and needs one; in JupyterLab open the property inspector "
            "(the cogs) of the cell and add the tag"
        )
        raise OptionError(message)
    try:
        statements = ast.parse("".join(cells[0]["source"])).body
    except SyntaxError as error:
        message = f"{path.name}: the parameters cell is no Python (line {error.lineno}): {error.msg}"
        raise OptionError(message) from None
    found: dict[str, Parameter] = {}
    for statement in statements:
        annotation = statement.annotation if isinstance(statement, ast.AnnAssign) else None
        match statement:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                try:
                    found[name] = Parameter(ast.literal_eval(value), _kind(annotation))
                except (ValueError, RecursionError):
                    message = f"{path.name}: the default of {name!r} is no literal"
                    raise OptionError(message) from None
            case _:
                where = f"{path.name}: the parameters cell"
                message = f"{where} may only assign literals to names (line {statement.lineno})"
                raise OptionError(message)
    return found


def parameters_of(notebook: str | Path) -> dict[str, Any]:
    """Return the parameters of a notebook and their defaults; raises as `declared` does."""
    return {name: parameter.default for name, parameter in declared(notebook).items()}


def check_parameters(notebook: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a run, defaults included, as plain JSON values; refuse what papermill would let pass.

    Raises
    ------
    OptionError
        An unknown name, a value that no notebook can be given, or one that is not of the annotated kind; the default always is,
        so that None may be given where it is the default.
    """
    known = declared(notebook)
    problems = [f"there is no parameter {name!r}{nearest(name, known, MOST)}" for name in given if name not in known]
    values: dict[str, Any] = {}
    for name, (default, kind) in known.items():
        try:
            default = json.loads(json.dumps(default, default=plain))
            value = values[name] = json.loads(json.dumps(given.get(name, default), default=plain))
        except TypeError as error:
            problems.append(f"parameter {name!r}: {error}; give numbers, texts, lists or dictionaries of them, or None")
            continue
        if not (kind.fits(value) or same(value, default)):
            problems.append(problem_of(name, kind, value))
    raise_problems(OptionError, Path(notebook).name, problems)
    return values


def publish(**results: Any) -> None:
    """Show results as the output of a notebook cell, in a form that `run` reads back.

    Parameters
    ----------
    **results : Any
        JSON values, numpy scalars or paths, by name; infinities and NaN are numbers too.

    Raises
    ------
    OptionError
        A name that a table of runs has for something else, such as ``status`` or ``seconds``.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.publish(latency_s=0.2, plan="cloud")  # doctest: +ELLIPSIS
    {...{'latency_s': 0.2, 'plan': 'cloud'}...}
    >>> ds.publish(latency_s=0.25, status="good")
    Traceback (most recent call last):
    dnnsplit.ground.errors.OptionError: publish: 'status' is a column of every table of runs; call it otherwise
    """
    from IPython.display import display

    taken = [f"{name!r} is a column of every table of runs; call it otherwise" for name in results if name in COLUMNS]
    raise_problems(OptionError, "publish", taken)
    clean = json.loads(json.dumps(results, default=plain))
    display({MIME: to_json(clean), "text/plain": "\n".join(f"{k}: {v}" for k, v in clean.items())}, raw=True)


def published(notebook: Path) -> dict[str, Any]:
    """Return what an executed notebook published; of a name published twice, the last."""
    found: dict[str, Any] = {}
    for cell in _code_cells(notebook):
        for shown in cell.get("outputs", []):
            found |= from_json(shown.get("data", {}).get(MIME, {}))
    return found


def _code_cells(notebook: Path) -> list[dict[str, Any]]:
    """Return the code cells of a notebook, as they are in the file (nbformat would take a second to import).

    Raises
    ------
    OptionError
        No such file, or no notebook of format 4.
    """
    document = read_json(notebook, NOTEBOOK, finite=False)
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        NOTEBOOK.refuse(notebook, "it has no list of cells")
    check_cells(notebook, document["cells"], NOTEBOOK)
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def check_cells(notebook: str | Path, cells: Iterable[Any], kind: Kind) -> None:
    """Raise as `kind` says where a cell of a notebook has another form than is read here."""
    for number, cell in enumerate(cells, 1):
        if wrong := _wrong(cell):
            kind.refuse(notebook, f"cell {number} {wrong}")


def _wrong(cell: Any) -> str:
    """Return what is wrong with a cell, of what is read here; "" where nothing is."""
    if not isinstance(cell, dict) or cell.get("cell_type") not in CELLS or not isinstance(cell.get("metadata"), dict):
        return f"has no metadata, or is none of {', '.join(CELLS)}"
    tags, source, outputs = cell["metadata"].get("tags", []), cell.get("source"), cell.get("outputs", [])
    if not isinstance(tags, list):
        return f"has the tags {shortened(tags)}, not a list"
    if not isinstance(source, str) and not (isinstance(source, list) and all(isinstance(line, str) for line in source)):
        return "has a source that is no text"
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        return "has outputs that are no list of objects"
    data = [output.get("data", {}) for output in outputs]
    if not all(isinstance(one, dict) and isinstance(one.get(MIME, {}), dict) for one in data):
        return "has an output whose data are no object"
    return ""


def _kind(annotation: ast.expr | None) -> kinds.Kind:
    match annotation:
        case ast.Constant(str(text)):
            try:
                return _kind(ast.parse(text.strip(), mode="eval").body)
            except SyntaxError:
                return kinds.ANYTHING
        case ast.Constant(None):
            return KINDS["None"]
        case ast.BoolOp(ast.Or(), several):
            return kinds.either([_kind(one) for one in several])
        case ast.BinOp(left, ast.BitOr(), right):
            return kinds.either([_kind(left), _kind(right)])
        case ast.Subscript(ast.Name("list"), inside):
            return kinds.each(_kind(inside), once=False)
        case ast.Name(name):
            return KINDS.get(name, kinds.ANYTHING)
    return kinds.ANYTHING
