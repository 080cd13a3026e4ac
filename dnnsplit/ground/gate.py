"""The one gate through which files of users come in: each is a plain file of a sensible size, in UTF-8 where it holds text.

A loader tells by a `Kind` what it takes and how it refuses. What parses the content (`dnnsplit.ground.json_file`, `yaml_file`,
`tables`, `arrays`) reads through here and refuses by the same `Kind`, so that no error of another library reaches a user.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from dnnsplit.ground.errors import DnnSplitError, shortened
from dnnsplit.ground.units import show

_NOT_FILES = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_WORDS = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file: its path leads through another file",
    errno.EACCES: "it may not be read; ask for the permission",
    errno.EPERM: "it may not be read; ask for the permission",
    errno.ELOOP: "it is a symbolic link that leads to itself",
    errno.ENAMETOOLONG: "its name is longer than the system takes",
    errno.ENXIO: "it is no plain file",
}
_MARKS = {
    codecs.BOM_UTF8: "a byte order mark; save it as UTF-8 without one",
    codecs.BOM_UTF32_LE: "the mark of UTF-32; save it as UTF-8",
    codecs.BOM_UTF16_LE: "the mark of UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "the mark of UTF-16; save it as UTF-8",
    codecs.BOM_UTF32_BE: "the mark of UTF-32; save it as UTF-8",
}
LONGEST_FILE = 255  # bytes of the name of a file
LONGEST_NAME = 1000  # characters of what is called by a name in a file


@dataclass(frozen=True)
class Kind:
    """What a loader takes, and how it refuses.

    Attributes
    ----------
    unfit : str
        What is said of a file that is refused: "is not readable as YAML".
    error : type[DnnSplitError]
        Class of the error.
    most_bytes : int
        Size of the largest file that is taken [B].
    itself : str
        What is to be given instead of a folder: "the network file".
    missing : str
        What is said where there is no file, with ``{path}``; by default it is refused as others are.
    way_out : str
        What to do about any refusal.
    """

    unfit: str
    error: type[DnnSplitError]
    most_bytes: int
    itself: str = "the file"
    missing: str = ""
    way_out: str = ""

    def refuse(self, path: str | os.PathLike[str], problem: str) -> NoReturn:
        """Raise the error of the loader."""
        message = f"{path} {self.unfit}: {problem}"
        raise self.error(message, self.way_out) from None


@contextmanager
def opened(path: str | os.PathLike[str], kind: Kind) -> Iterator[tuple[BinaryIO, int]]:
    """Open a plain file that is neither empty nor too large; give it with its size [B]. What is no plain file is never opened.

    Raises
    ------
    DnnSplitError
        Of the class that `kind` names.
    """
    with _in_words(path, kind):
        _size(path, kind, Path(path).stat())
        # A file that became a FIFO just now is opened without waiting for its writer, and refused.
        with open(path, "rb", opener=_unwaiting) as file:
            yield file, _size(path, kind, os.fstat(file.fileno()))


def _unwaiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def is_there(path: str | os.PathLike[str], kind: Kind) -> bool:
    """Whether something is at a path; an error of the class that `kind` names says where there cannot be anything."""
    with _in_words(path, kind):
        try:
            os.lstat(path)
        except FileNotFoundError:
            return False
        return True


@contextmanager
def _in_words(path: str | os.PathLike[str], kind: Kind) -> Iterator[None]:
    """Tell what the system says of a path by the error of the loader."""
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str) or not name:
        message = f"{shortened(path)} is no path of {kind.itself}; give one as a text or a pathlib.Path"
        raise kind.error(message)
    if "\0" in name:
        kind.refuse(repr(name), "its name has a NUL character, which no file has")
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if kind.missing:
            message = kind.missing.format(path=path)
            raise kind.error(message) from None
        kind.refuse(path, _WORDS[error.errno or errno.ENOENT])
    except UnicodeEncodeError:
        kind.refuse(ascii(name), "its name has half of a character, which no file has")
    except OSError as error:
        kind.refuse(path, _WORDS.get(error.errno or 0, f"the system says: {error.strerror}"))


def _size(path: str | os.PathLike[str], kind: Kind, found: os.stat_result) -> int:
    """Return the size of a file [B], if it is one that is taken."""
    if stat.S_ISDIR(found.st_mode):
        kind.refuse(path, f"it is a folder; give {kind.itself} itself")
    if not stat.S_ISREG(found.st_mode):
        what = _NOT_FILES.get(stat.S_IFMT(found.st_mode), "something else")
        kind.refuse(path, f"it is {what}, not a plain file; write its content to a file first")
    if not found.st_size:  # such as those of the system in /proc, of which some never end
        kind.refuse(path, "it is empty")
    if found.st_size > kind.most_bytes:
        kind.refuse(path, f"it holds {show(found.st_size, 'B')}, and at most {show(kind.most_bytes, 'B')} are taken")
    return found.st_size


def read_bytes(path: str | os.PathLike[str], kind: Kind) -> bytes:
    """Return the content of a file; raises as `opened` does."""
    try:
        with opened(path, kind) as (file, size):
            content = file.read(size + 1)  # asks for memory as large as that
            if len(content) > size:
                content += file.read(kind.most_bytes + 1 - len(content))
    except MemoryError:
        kind.refuse(path, "there is no memory left to read it into")
    if len(content) > kind.most_bytes:
        kind.refuse(path, f"it grows while it is read, beyond the {show(kind.most_bytes, 'B')} that are taken")
    return content


def read_text(path: str | os.PathLike[str], kind: Kind) -> str:
    """Return the text of a file in UTF-8 without a mark; raises as `opened` does."""
    return text_of(path, read_bytes(path, kind), kind)


def text_of(path: str | os.PathLike[str], content: bytes, kind: Kind) -> str:
    """Return what a file says in UTF-8; `path` is for messages."""
    for mark, what in _MARKS.items():
        if content.startswith(mark):
            kind.refuse(path, f"it starts with {what}")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        kind.refuse(path, f"line {line} is no UTF-8 (the byte 0x{content[error.start]:02x}); save it as UTF-8")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        kind.refuse(path, f"line {line} has a NUL character; it is no text, or text in another encoding than UTF-8")
    return text


def memory_bytes() -> int:
    """Memory of this machine [B], beyond which nothing can be held at once; 64 GiB where the system does not tell."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**36


def name_problem(name: str) -> str:
    """Return what is wrong with a text that people are to read as a name, "" where nothing is."""
    return f"has {len(name)} characters, and a name at most {LONGEST_NAME}" if len(name) > LONGEST_NAME else ""


def unseen_problem(name: str) -> str:
    """Return what is wrong with a text that people are to tell from others by looking at it, "" where nothing is."""
    if not name.isprintable():
        return "has a character that is not seen"
    return "has spaces around it" if name != name.strip() else ""


def file_problem(path: str) -> str:
    """Return what is wrong with a text as the path of a file on any system, "" where nothing is."""
    if control := next((character for character in path if character < " " or character == "\x7f"), ""):
        return f"has the control character {control!a}, which no file has"
    if any(len(name.encode(errors="replace")) > LONGEST_FILE for name in re.split(r"[/\\]", path)):
        return f"has a name of more than {LONGEST_FILE} bytes"
    return ""
