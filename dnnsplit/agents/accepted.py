"""What an agent accepts to run: ONNX models of operators that ONNX Runtime has itself, with weights in files that came along."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dnnsplit.graph.foreign import domains_and_places
from dnnsplit.ground.errors import DeployError, ModelError, raise_problems

# Domains of what is built into ONNX Runtime; whatever else needs a library of operators, which nobody may send.
DOMAINS = (
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.preview.training",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
)


def check_accepted(file: Path, beside: Iterable[str] = ()) -> None:
    """Raise unless a file is a model that may be run here.

    Parameters
    ----------
    file : Path
        ONNX file.
    beside : Iterable[str], optional
        Names of the files of weights that came with it, in its folder.

    Raises
    ------
    DeployError
        It is no ONNX model, needs operators of somebody's library, or weights from elsewhere; all of it at once.
    """
    allowed = set(beside)
    try:
        domains, weights = domains_and_places(file)
    except ModelError as error:
        raise DeployError(str(error)) from None
    problems = [
        f"operators of the domain {domain!r} need a library, and none is loaded here"
        for domain in domains
        if domain not in DOMAINS
    ]
    problems += [f"its weights are in {place!r}, which did not come with it" for place in weights if place not in allowed]
    raise_problems(DeployError, f"{file.name} is not accepted", problems)
