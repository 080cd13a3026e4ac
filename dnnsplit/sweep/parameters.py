"""The parameters of a notebook: the literals of its tagged cell, and what a user gives instead of them."""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnsplit.ground.errors import OptionError, nearest, raise_problems
from dnnsplit.ground.files import plain


def parameters_of(notebook: str | Path) -> dict[str, Any]:
    """Return the parameters of a notebook and their defaults: the literals of the cell tagged ``parameters``.

    Raises
    ------
    OptionError : no such file, no notebook, no tagged cell, or a default that is no literal
    """
    path = Path(notebook)
    cells = [c for c in code_cells(path) if "parameters" in c["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise OptionError(
            f"{path.name} has {len(cells)} cells tagged 'parameters' and needs one; in JupyterLab open the property inspector "
            "(the cogs) of the cell and add the tag"
        )
    try:
        statements = ast.parse("".join(cells[0]["source"])).body
    except SyntaxError as error:
        raise OptionError(f"{path.name}: the parameters cell is no Python (line {error.lineno}): {error.msg}") from None
    found: dict[str, Any] = {}
    for statement in statements:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if len(targets) != 1 or not isinstance(targets[0], ast.Name) or statement.value is None:
            raise OptionError(f"{path.name}: the parameters cell may only assign literals to names (line {statement.lineno})")
        try:
            found[targets[0].id] = ast.literal_eval(statement.value)
        except ValueError:
            raise OptionError(f"{path.name}: the default of {targets[0].id!r} is no literal") from None
    return found


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    """Return the code cells of a notebook, as they are in the file (nbformat would take a second to import).

    Raises
    ------
    OptionError : no such file, or no notebook of format 4
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [cell for cell in cells if cell["cell_type"] == "code" and cell["metadata"] is not None]
    except FileNotFoundError:
        raise OptionError(f"there is no notebook {notebook}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{notebook} is no notebook of format 4: {str(error).splitlines()[0]}") from None


def check_parameters(notebook: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a run, defaults included, as plain JSON values; refuse what papermill would let pass.

    Raises
    ------
    OptionError : an unknown name, or a value that no notebook can be given
    """
    defaults = parameters_of(notebook)
    problems = [f"there is no parameter {name!r}{nearest(name, defaults)}" for name in given if name not in defaults]
    values: dict[str, Any] = {}
    for name, value in (defaults | dict(given)).items():
        try:
            values[name] = json.loads(json.dumps(value, default=plain))
        except TypeError as error:
            problems.append(f"parameter {name!r}: {error}; give numbers, texts, lists or dictionaries of them, or None")
    raise_problems(OptionError, Path(notebook).name, problems)
    return values


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Return the parameters written as ``name=value``: a Python literal, or a text without quotes.

    Raises
    ------
    OptionError : no ``=``
    """
    return {name: _value(text) for name, text in map(_halves, texts)}


def grids(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values written as ``name=v1,v2,...``, by name; a name given twice has the values of both.

    Raises
    ------
    OptionError : no ``=``, or no value after it
    """
    found: dict[str, list[Any]] = {}
    for name, text in map(_halves, texts):
        listed = _value(f"({text},)")  # commas inside brackets and quotes belong to a value
        values = list(listed) if isinstance(listed, tuple) else [_value(part.strip()) for part in text.split(",")]
        if "" in [part.strip() for part in text.split(",")]:
            raise OptionError(f"-g {name}={text}: a value is missing between the commas")
        found[name] = [*found.get(name, []), *values]
    return found


def points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid's values; the last name changes fastest, and no name gives one empty point."""
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise OptionError(f"the grid of {name!r} is {values!r}; give a list of values")
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


def _halves(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise OptionError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
