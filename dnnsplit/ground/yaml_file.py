"""YAML as people write it: a key that is given twice is a mistake, and `NO`, `yes`, `010` and `12:30` are texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

YAML_ERRORS = (OSError, UnicodeDecodeError, yaml.YAMLError)


class _Texts(yaml.SafeLoader):
    """PyYAML's safe loader without its YAML 1.1 guesses: every scalar is a text, and a mapping has each key once."""

    yaml_implicit_resolvers: dict[str | None, list[Any]] = {}  # noqa: RUF012, PyYAML's own way

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, yaml.ScalarNode] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if first.setdefault(key.value, key) is not key:
                lines = f"{first[key.value].start_mark.line + 1} and {key.start_mark.line + 1}"
                problem = f"the key {key.value!r} is given twice, on lines {lines}; keep one"
                raise yaml.constructor.ConstructorError(None, None, problem)
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
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _float(loader: _Typed, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(?=[in])", "", loader.construct_scalar(node).lower()))


_Typed.add_constructor("tag:yaml.org,2002:int", _int)
_Typed.add_constructor("tag:yaml.org,2002:float", _float)


def read_texts(path: str | Path) -> Any:
    """Read a YAML file of names and quantities: every scalar is the text that stands there, an empty one "".

    Raises
    ------
    OSError, UnicodeDecodeError, yaml.YAMLError
        `YAML_ERRORS`; a key that is given twice among them.
    """
    return texts_of(Path(path).read_text(encoding="utf-8"))


def texts_of(text: str) -> Any:
    """Return what YAML says, as `read_texts` does."""
    return yaml.load(text, _Texts)


def read_values(path: str | Path) -> Any:
    """Read a YAML file of parameters, whose scalars are values as YAML 1.2 has them; raises as `read_texts` does."""
    return yaml.load(Path(path).read_text(encoding="utf-8"), _Typed)
