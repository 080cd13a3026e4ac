"""YAML as people write it: a key that is given twice is a mistake, and `NO`, `yes`, `010` and `12:30` are texts.

What an alias stands for is counted before it is written out, and nests have an end.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from typing import Any, NoReturn

import yaml

from dnnsplit.ground.errors import OptionError, shortened
from dnnsplit.ground.gate import Kind, read_text

MOST_DEPTH = 32  # lists and mappings inside of each other
MOST_NODES = 1_000_000  # with all that aliases stand for
MOST_BYTES = 2**20  # of a file; PyYAML takes seconds for as much
YAML = Kind("is not readable as YAML", OptionError, MOST_BYTES)
_HALF = re.compile("[\ud800-\udfff]")
YAML = Kind("is not readable as YAML", OptionError, MOST_BYTES)
_LONGEST = 300  # digits of a whole number, so that each is less than the largest float
_PLAIN = frozenset({None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"})


class _Texts(yaml.SafeLoader):
    """PyYAML's safe loader without its YAML 1.1 guesses: every scalar is a text, and a mapping has each key once."""

    yaml_implicit_resolvers: dict[str | None, list[Any]] = {}  # noqa: RUF012, PyYAML's own way

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.count = 0
        self.counts: dict[int, int] = {}  # nodes inside of each, by the identity of the node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.counts:
                _refuse(f"the alias {event.anchor!r} stands inside of what it stands for", event.start_mark)
            self.count += self.counts[id(node)]
        else:
            if event.tag not in _PLAIN:
                _refuse(f"the tag {shortened(event.tag)} is not known; write the value without a tag", event.start_mark)
            if self.depth == MOST_DEPTH:
                _refuse(f"lists and mappings are nested more than {MOST_DEPTH} deep", event.start_mark)
            before = self.count
            self.count += 1
            self.depth += 1
            node = super().compose_node(parent, index)
            if isinstance(node, yaml.ScalarNode) and _HALF.search(node.value):
                node.value = _joined(node)
            self.depth -= 1
            self.counts[id(node)] = self.count - before
        if self.count > MOST_NODES:
            _refuse(f"it stands for more than {MOST_NODES} entries, with what its aliases repeat", event.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, yaml.ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key must be a text, not a list or a mapping", key.start_mark)
            if first.setdefault(key.value, key) is not key:
                lines = f"{first[key.value].start_mark.line + 1} and {key.start_mark.line + 1}"
                _refuse(f"the key {shortened(key.value)} is given twice, on lines {lines}; keep one")
        return super().construct_mapping(node, deep)


class _Typed(_Texts):
    """Scalars as in the core schema of YAML 1.2: null, true and false, decimal, 0o and 0x numbers, floats; all else is text."""


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Typed.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _int(loader: _Typed, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > _LONGEST:
        _refuse(f"a whole number has {len(text)} digits", node.start_mark)
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _float(loader: _Typed, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node)
    value = float(re.sub(r"\.(?=[in])", "", text.lower()))
    if math.isinf(value) and "inf" not in text.lower():
        _refuse(f"the number {shortened(text)} is beyond what a computer counts with", node.start_mark)
    return value


_Typed.add_constructor("tag:yaml.org,2002:int", _int)
_Typed.add_constructor("tag:yaml.org,2002:float", _float)


def read_texts(path: str | os.PathLike[str], kind: Kind = YAML, mended: Callable[[str], str] = str) -> Any:
    """Read a YAML file of names and quantities: every scalar is the text that stands there, an empty one "".

    Parameters
    ----------
    path, kind : str | os.PathLike[str], Kind
        As `dnnsplit.ground.gate.opened` takes them.
    mended : Callable[[str], str], optional
        Gives the YAML that is meant by a text that YAML would take for something else.

    Raises
    ------
    DnnSplitError
        Of the class that `kind` names; a key that is given twice among the reasons.
    """
    return _read(path, kind, _Texts, mended)


def read_values(path: str | os.PathLike[str], kind: Kind = YAML) -> Any:
    """Read a YAML file of parameters, whose scalars are values as YAML 1.2 has them; raises as `read_texts` does."""
    return _read(path, kind, _Typed)


def texts_of(text: str) -> Any:
    """Return what YAML of ours says, as `read_texts` does; what is no YAML is PyYAML's error."""
    return yaml.load(text, _Texts)


def _read(path: str | os.PathLike[str], kind: Kind, loader: type[_Texts], mended: Callable[[str], str] = str) -> Any:
    text = mended(read_text(path, kind))
    try:
        return yaml.load(text, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        kind.refuse(path, where + (error.problem or error.context or "this is no YAML"))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        kind.refuse(path, f"line {line} has the control character {shortened(chr(error.character))}, which no YAML has")


def _joined(node: yaml.ScalarNode) -> str:
    """Return a text in which characters are in two halves, as JSON writes those beyond the first 65536."""
    try:
        return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        _refuse(r"a text has half of a character (such as \ud800)", node.start_mark)


def _refuse(problem: str, mark: Any = None) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, mark)
