"""Parameters and results as JSON has them: a number that it lacks travels as ``{"__float__": "inf"}``, and comes back."""

from __future__ import annotations

import json
import math
from typing import Any

TAG = "__float__"


def to_json(value: Any) -> Any:
    """Return a value of ``json.loads`` with infinities and NaN in a form that every reader of JSON takes."""
    if isinstance(value, float) and not math.isfinite(value):
        return {TAG: repr(value)}
    if isinstance(value, dict):
        return {name: to_json(inner) for name, inner in value.items()}
    return [to_json(inner) for inner in value] if isinstance(value, list) else value


def from_json(value: Any) -> Any:
    """Return the value that `to_json` was given."""
    if isinstance(value, dict):
        return float(value[TAG]) if value.keys() == {TAG} else {name: from_json(inner) for name, inner in value.items()}
    return [from_json(inner) for inner in value] if isinstance(value, list) else value


def same(one: Any, other: Any) -> bool:
    """Whether two values are written alike: NaN is NaN, and 1 is neither 1.0 nor True."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
