"""Inputs for fuzzing, as hypothesis strategies: good ones of which something is changed, and bad ones made from nothing."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import onnx
import yaml
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

HUGE = 10**400
TOKENS = (
    "", " ", "\n", "\r", "\t", "\0", "\ufeff", "\ud800", "é", "null", "true", "NaN", "-Infinity", "1e999", "-1", "0", "1" * 400,
    "0x10", "1e-400", "9" * 25, '"', "'", "[", "]", "{", "}", ":", "#", "&a", "*a", "<<", "!!python/object:os.system", "---", "%",
    ",", ";", "\\", "../", "/dev/zero", "a" * 3000, "[" * 200, "{a: " * 40, "- " * 60, "$ref", "-0.0", "1_000", "12:30",
    "10 MB/s", "5 ms", "1e400 B",
)  # fmt: skip
WORDS = st.sampled_from(TOKENS) | st.text(max_size=8)
NUMBERS = st.integers() | st.floats() | st.sampled_from((HUGE, -HUGE, 2**63, 2**31, 1e308, 5e-324))
TREES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(WORDS, inside, max_size=4), max_leaves=8,
)  # fmt: skip
NAMES = (
    "Conv", "Loop", "If", "Scan", "Reshape", "x", "y", "a", "b", "Constant", "", "NoSuch", "INT64", "BYTES", "FP16", "0" * 30,
)  # fmt: skip
CHANGES = ("cell", "cell", "cell", "drop row", "double row", "drop column", "double column", "shorten")
SIZES = (0, 1, -1, 2, 7, 127, 128, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))


def inputs(form: str, seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Inputs of a form (see `trust_targets.Target`), most of them made from good ones."""
    good = st.sampled_from(seeds)
    changed = FORMS[form](good)
    return st.one_of(changed, changed, good.flatmap(_torn), changed.flatmap(_torn), MADE.get(form, st.binary(max_size=300)))


@st.composite
def _torn(draw: Callable[..., Any], content: bytes) -> bytes:
    """Bytes of which some are taken out, doubled, moved or replaced."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from((0, 1, 1, 2, 4, 16, 100, 10**6))))
        token = draw(st.sampled_from(TOKENS).map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=8))
        inside = draw(st.sampled_from((b"", token, token, content[start:end] * 2)))
        content = content[:start] + inside + content[end:]
    return content


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each entry of a tree as what holds it and its key there."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from _places(tree[key])


@st.composite
def _changed_tree(draw: Callable[..., Any], tree: Any) -> Any:
    """A tree of which entries are replaced, taken out, doubled, called otherwise, or put where others were."""
    tree = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(("replace", "replace", "replace", "take", "double", "rename", "move")))
        if what == "replace":
            holder[key] = draw(TREES)
        elif what == "move":
            other, there = draw(st.sampled_from(places))
            still = other if isinstance(other, dict) else range(len(other))
            holder[key] = copy.deepcopy(other[there]) if there in still else None
        elif isinstance(holder, dict):
            value = holder.pop(key) if what != "double" else holder[key]
            if what != "take":
                holder[draw(WORDS)] = value
        elif what == "double":
            holder.append(copy.deepcopy(holder[key]))
        elif holder is not tree:
            holder.pop(key)
    return tree[0] if tree else None


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _in_json(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return good.flatmap(lambda content: _changed_tree(_read(json.loads, content))).map(_json)


def _in_yaml(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    trees = good.flatmap(lambda content: _changed_tree(_read(yaml.safe_load, content)))
    return trees.map(_json) | trees.map(_yaml)


def _yaml(tree: Any) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode(errors="surrogatepass")


def _read(read: Callable[[bytes], Any], content: bytes) -> Any:
    """Return what bytes say; what is kept of the corpus may say nothing."""
    try:
        return read(content)
    except (ValueError, yaml.YAMLError, RecursionError):
        return {}


@st.composite
def _changed_table(draw: Callable[..., Any], content: bytes) -> bytes:
    """A CSV of which cells, rows, columns or the header are changed."""
    text = content.decode(errors="replace")
    first, _, below = text.partition("\n") if text.startswith("#") else ("", "", text)
    if first and draw(st.booleans()):
        header = _read(json.loads, first.lstrip("# ").encode())
        first = "# " + json.dumps(draw(_changed_tree(header)))
    rows = list(csv.reader(io.StringIO(below)))
    for _ in range(draw(st.integers(0 if first else 1, 3))):
        if not rows:
            break
        row = draw(st.integers(0, len(rows) - 1))
        column = draw(st.integers(0, max(0, len(rows[row]) - 1)))
        what = draw(st.sampled_from(CHANGES))
        if what == "cell" and rows[row]:
            rows[row][column] = draw(WORDS | st.floats().map(str) | st.integers().map(str))
        elif what == "drop row":
            del rows[row]
        elif what == "double row":
            rows.append(list(rows[row]))
        elif what == "shorten":
            del rows[row][column:]
        else:
            rows = [r[:column] + (r[column : column + 1] * 2 if what == "double column" else []) + r[column + 1 :] for r in rows]
    out, quoting = io.StringIO(), draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    csv.writer(out, quoting=quoting, lineterminator="\n", escapechar="\\").writerows(rows)
    return (first + "\n" * bool(first) + out.getvalue()).encode(errors="surrogatepass")


@st.composite
def _changed_one_of(draw: Callable[..., Any], content: bytes) -> bytes:
    """A name on the first line, and the changed file of that name below."""
    name, _, below = content.partition(b"\n")
    change = _in_yaml(st.just(below)) if name.endswith(b"yaml") else _changed_table(below)
    return name + b"\n" + draw(change)


def _fields(message: Message) -> Iterator[tuple[Message, Any, int | None]]:
    """Yield each field of a message that is there, and of those inside, as its holder, descriptor and position."""
    for field, value in message.ListFields():
        many = field.is_repeated
        for i, one in enumerate(value if many else [value]):
            yield message, field, i if many else None
            if isinstance(one, Message) and not field.message_type.GetOptions().map_entry:
                yield from _fields(one)


@st.composite
def _changed_message(draw: Callable[..., Any], content: bytes, kind: type[Message]) -> bytes:
    """A message of protocol buffers of which fields are set to odd values, taken out, doubled or emptied."""
    message = kind()
    try:
        message.ParseFromString(content)
    except DecodeError:
        return content
    for _ in range(draw(st.integers(1, 3))):
        fields = list(_fields(message))
        if not fields:
            break
        holder, field, i = draw(st.sampled_from(fields))
        held, what = getattr(holder, field.name), draw(st.sampled_from(("set", "set", "set", "clear", "double")))
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if what == "set" and field.message_type is None:
            value = draw(_scalars(field, held if i is None else held[i]))
        with suppress(ValueError):  # out of the range of its type, or a kept text that is no UTF-8
            if what == "clear" and i is None:
                holder.ClearField(field.name)
            elif what == "clear":
                del held[i]
            elif what == "double" and i is not None:
                held.append(held[i])
            elif what == "set" and field.message_type is None and i is None:
                setattr(holder, field.name, value)
            elif what == "set" and field.message_type is None:
                held[i] = value
    return message.SerializeToString()


def _scalars(field: Any, held: Any) -> st.SearchStrategy[Any]:
    """Odd values of a field's type."""
    if isinstance(held, bool):
        return st.just(not held)
    if isinstance(held, float):
        return st.floats(width=32)
    if isinstance(held, int):
        return st.sampled_from(SIZES) | st.integers(0, 40)
    if isinstance(held, bytes):
        return st.binary(max_size=20) | _torn(held)
    return st.sampled_from(NAMES) | st.text(max_size=5)


def _of(kind: type[Message]) -> Callable[[st.SearchStrategy[bytes]], st.SearchStrategy[bytes]]:
    return lambda good: good.flatmap(lambda content: _changed_message(content, kind))


def _in_messages(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return _of(service_pb2.ModelInferRequest)(good) | _of(service_pb2.ModelInferResponse)(good)


FORMS: dict[str, Callable[[st.SearchStrategy[bytes]], st.SearchStrategy[bytes]]] = {
    "json": _in_json,
    "yaml": _in_yaml,
    "csv": lambda good: good.flatmap(_changed_table),
    "tables": lambda good: good.flatmap(_changed_one_of),
    "onnx": _of(onnx.ModelProto),
    "message": _in_messages,
    "bytes": lambda good: good,
}
MADE = {"json": TREES.map(_json), "yaml": TREES.map(_yaml) | st.text().map(lambda text: text.encode())}
