"""The command line: ``dnnsplit`` (= ``python -m dnnsplit``).

Exit code 0 done, 2 bad input or a result that cannot be written, 128 + N stopped by signal N (130: Ctrl-C), 1 anything else.
What it imports before it hears signals is next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "its terminal is gone"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Parameters
    ----------
    arguments : Sequence[str] | None, optional
        Of the command line; None takes those of this process, whose signals the command hears then.
    """
    # those that whoever started this process told it to ignore are not heard
    heard = [number for number in WORDS if signal.getsignal(number) != signal.SIG_IGN] if arguments is None else []
    for number in heard:
        signal.signal(number, _leave)
    from dnnsplit.cli.running import run
    from dnnsplit.cli.stopping import Signals

    signals = Signals(heard)
    try:
        signals.listen()
        return signals.passed(run(sys.argv[1:] if arguments is None else arguments))
    except BaseException as error:  # a library that is interrupted while it is loaded may say so by any error
        came = signals.number or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else 0)
        if not came:
            raise
        tell_stopped(came, *getattr(error, "__notes__", ()))
        return 128 + came
    finally:
        signals.end()


def tell_stopped(number: int, *notes: str) -> None:
    """Print the one line that says why a command ended."""
    text = "; ".join([WORDS[signal.Signals(number)], *notes])
    try:
        os.write(2, f"dnnsplit: {text}\n".encode())
    except OSError:  # its terminal may be gone
        return


def _leave(number: int, frame: FrameType | None) -> None:
    """End this process at once, while there is nothing to take away."""
    tell_stopped(number)
    os._exit(128 + number)
