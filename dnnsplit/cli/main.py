"""The command line: ``dnnsplit`` (= ``python -m dnnsplit``). Exit code 0 done, 2 bad input, 1 anything else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import dnnsplit as ds
from dnnsplit.cli.commands import COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except ds.DnnSplitError as error:
        print(f"dnnsplit: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"dnnsplit: {error}; requirements-serve.txt is for 'serve' and 'probe' alone, install dnnsplit with all it needs",
              file=sys.stderr)  # fmt: skip
        return 1
    except KeyboardInterrupt:
        print("dnnsplit: interrupted", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dnnsplit", description=(ds.__doc__ or "").split("\n\n", maxsplit=1)[0])
    parsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (function, summary, given) in COMMANDS.items():
        command = parsers.add_parser(name, help=summary, description=summary)
        for names, options in given:
            command.add_argument(*names, **options)
        command.set_defaults(command=function)
    return parser
