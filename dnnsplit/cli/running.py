"""One command: its arguments, what it may write, and in how many words it fails."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

import dnnsplit as ds
from dnnsplit.cli.commands import COMMANDS
from dnnsplit.cli.version import Version
from dnnsplit.ground.errors import nearest
from dnnsplit.ground.outputs import check_output, writing
from dnnsplit.ground.units import number

PIPE_CODE = 141  # as of a program that SIGPIPE ends


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code."""
    for one in arguments:
        try:
            one.encode()
        except UnicodeEncodeError:
            told = f"the argument {one!r} is no UTF-8, or this shell's locale is none; rename what it names, or set PYTHONUTF8=1"
            return _failed(2, told)
    with redirect_stdout(_Output(sys.stdout)) as output:
        try:
            options = _parser().parse_args(arguments)
            for name, folder in options.writes.items():
                if getattr(options, name):
                    check_output(getattr(options, name), folder)
            code: int = options.command(options)
            output.flush()
        except ds.OutputError as error:
            return PIPE_CODE if output.lost == errno.EPIPE else _failed(2, error)  # whoever read it has seen enough
        except ds.DnnSplitError as error:
            return _failed(2, error)
        except ModuleNotFoundError as error:
            needs = "requirements-serve.txt is for 'serve' and 'probe' alone, install dnnsplit with all it needs"
            return _failed(1, f"{error}; {needs}")
        except OSError as error:
            return _failed(1, error)
        return code


class _Output(io.TextIOBase):
    """Standard output, which may have no room as any other; `lost` is the number of the error then."""

    def __init__(self, stream: TextIO | None) -> None:  # None: it is closed
        self.stream, self.lost = stream, 0

    def write(self, text: str) -> int:
        if self.stream:
            # what it lacks is written by numbers, as on standard error
            encoding = getattr(self.stream, "encoding", None) or "utf-8"
            with self._writing():
                self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        if self.stream and not self.lost:
            with self._writing():
                self.stream.flush()

    def isatty(self) -> bool:
        return bool(self.stream and self.stream.isatty())

    def fileno(self) -> int:
        return 1 if self.stream is None else self.stream.fileno()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing("standard output"):
                yield
        except ds.OutputError as error:
            self.lost = error.errno or errno.EIO
            with suppress(OSError):  # else Python tries again when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise


def _failed(code: int, reason: object) -> int:
    print(f"dnnsplit: {reason}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Names the nearest option to one that is not there, as whoever misspells a value is told the nearest, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("type", float, number)
        self.register("type", int, _whole)
        self.register("type", Path, _path)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for option in self._option_string_actions if option.startswith("--")]
            near = [one + (nearest(one.partition("=")[0], options) if one.startswith("--") else "") for one in unknown]
            self.error(f"unrecognized arguments: {' '.join(near)}")
        return found, unknown


def _whole(text: str) -> int:
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text):
        raise ValueError
    return int(text)


def _path(text: str) -> Path:
    if not text:
        message = "the path is empty; '.' is the current folder"
        raise argparse.ArgumentTypeError(message)
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dnnsplit", allow_abbrev=False, description=(ds.__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--version", action=Version, nargs=0, help="tell the versions of dnnsplit, Python and ONNX Runtime")
    parsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (function, summary, given) in COMMANDS.items():
        command, writes = parsers.add_parser(name, help=summary, description=summary, allow_abbrev=False), {}
        for names, options in given:
            kinds = {key: value for key, value in options.items() if key != "writes"}
            action = command.add_argument(*names, **kinds)
            if "writes" in options:
                writes[action.dest] = options["writes"] == "folder"
        command.set_defaults(command=function, writes=writes)
    return parser
