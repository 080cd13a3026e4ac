"""Pages of the reference, written from the code: every public name by its room, and every command of the command line."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import dnnsplit as ds
from dnnsplit.cli.running import _parser

ROOT = Path(__file__).resolve().parents[1]
ABOUT = """Every public name, by the room that defines it, from the ground up. All of them are names of the package, whichever
room they live in: ``import dnnsplit as ds``, then ``ds.split``. What is not listed here may change without notice."""
EXITS = """Exit codes: 0 done; 2 bad input, or a result that cannot be written; 128 + N stopped by signal N (130: Ctrl-C);
1 anything else. This page is written from the parser, as ``dnnsplit COMMAND --help`` is."""


def public_names() -> dict[str, str]:
    """Return the module that defines each public name, by what stands after ``dnnsplit.``; ``plots.placement`` is one, too."""
    stub = ast.parse((ROOT / "dnnsplit" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [one for one in stub.body if isinstance(one, ast.ImportFrom)]
    found = {
        alias.asname or alias.name: ".".join(filter(None, [one.module, alias.name])) for one in imports for alias in one.names
    }
    found = {
        name: where if isinstance(getattr(ds, name), ModuleType) else where.rpartition(".")[0] for name, where in found.items()
    }
    rooms = [name for name, where in found.items() if name == where]
    inside = {(room, name): getattr(getattr(ds, room), name) for room in rooms for name in getattr(ds, room).__all__}
    known = [getattr(ds, name) for name in found]  # what has a page as it is, such as scenes, needs none in its room
    return found | {f"{room}.{name}": room for (room, name), value in inside.items() if not any(value is one for one in known)}


def rooms() -> list[str]:
    """Return the rooms, in the order of the line."""
    return re.findall(r"^\| \[(\w+)\]", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE)


def write_reference(folder: Path) -> None:
    """Write ``api/index.rst``, a page for every room and every public name, and ``commands.rst``."""
    pages = {"commands.rst": "\n".join(_commands())}
    names = public_names()
    for room in rooms():
        inside = sorted((n for n, where in names.items() if where.split(".")[0] == room and n != room), key=str.lower)
        pages[f"api/{room}.rst"] = _room(room, inside)
        pages |= {f"api/{name}.rst": _page(name) for name in inside}
    links = "\n".join(f"   {room}" for room in rooms())
    pages["api/index.rst"] = f"{_title('Python reference')}{ABOUT}\n\n.. toctree::\n   :maxdepth: 2\n\n{links}\n"
    for path, text in pages.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def kind_of(name: str) -> str:
    """Return what a public name is: function, class, exception, module or data."""
    value = ds
    for part in name.split("."):
        value = getattr(value, part)
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "module" if inspect.ismodule(value) else "function" if callable(value) else "data"


def _title(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}\n\n"


def _room(room: str, names: list[str]) -> str:
    docstring = inspect.getdoc(importlib.import_module(f"dnnsplit.{room}")) or ""
    head = f".. _room-{room}:\n\n{_title(room)}{docstring}\n\n"
    if not names:
        return head + (
            ":doc:`/commands` has all of it.\n" if room == "cli" else "Nothing in it is public: what stands on it is.\n"
        )
    rows = "\n".join(f"   {name}" for name in names)
    summaries = "\n".join(f"   * - :py:obj:`~dnnsplit.{name}`\n     - {_summary(name)}" for name in names)
    table = f".. list-table::\n   :widths: 30 70\n   :class: names\n\n{summaries}\n"
    return f"{head}{table}\n.. toctree::\n   :hidden:\n\n{rows}\n"


def _summary(name: str) -> str:
    value = ds
    for part in name.split("."):
        value = getattr(value, part)
    first = (inspect.getdoc(value) or "").split("\n\n")[0]
    return {"SHIPPED": "Name of the model that is shipped.", "TOPOLOGIES": "Names of the networks that are shipped."}.get(
        name.rpartition(".")[2], " ".join(first.split())
    )


def _page(name: str) -> str:
    kind = kind_of(name)
    options = "   :members:\n" if kind in ("class", "module") else "   :no-value:\n" if kind == "data" else ""
    text = f"\n   {_summary(name)}\n" if kind == "data" else ""
    return f"{_title(name)}.. auto{kind}:: dnnsplit.{name}\n{options}{text}"


def commands(parser: argparse.ArgumentParser | None = None) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command, and the commands below it, with its parser."""
    for action in (parser or _parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield command.prog, command
                yield from commands(command)


def _commands() -> Iterator[str]:
    yield _title("Command line")
    yield f"``dnnsplit``, or ``python -m dnnsplit``. {_escaped(_parser().description or '')}\n"
    yield f"{EXITS}\n"
    for name, command in commands():
        yield f".. _{label(name)}:\n\n{_title(name, '-')}{_escaped(command.description or '')}\n"
        yield f".. program:: {name}\n\n.. code-block:: text\n"
        yield from (f"   {line}" for line in command.format_usage().splitlines())
        yield ""
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
                yield f".. option:: {_signature(command, action)}\n\n   {_escaped(action.help or '')}\n"


def label(command: str) -> str:
    """Return the label of a command's section."""
    return command.replace(" ", "-")


def _signature(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    values = command._get_formatter()._format_args(action, (action.dest if not action.option_strings else action.dest.upper()))
    if not action.option_strings:
        return values
    return ", ".join(f"{option} {values}".rstrip() for option in action.option_strings)


def _escaped(text: str) -> str:
    """Return a text of the command line, which is no reStructuredText."""
    return re.sub(r"([*_|\\`])", r"\\\1", " ".join(text.split()))
