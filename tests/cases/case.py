"""A case of the table, and the small functions that make its input."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WORK = Path("a/b/c/d/work")
"""The case's own folder in its place, deep enough that a name with ``../`` in it stays there."""
Make = Callable[[Path], object]
"""Writes a case's input into its folder."""


def valid(folder: Path) -> Path:
    """The folder of the valid ``run`` and ``model``, beside the places of all cases."""
    return folder.parents[len(WORK.parts)] / "valid"


def nothing(folder: Path) -> None:
    """The command's words are the whole input."""


@dataclass(frozen=True)
class Case:
    """An input, a command and the answer that is right.

    Attributes:
        name: Unique in the table.
        command: ``train``, ``eval``, ``export``, ``report`` or ``cache``.
        words: The command's words; the current directory is the case's folder.
        line: A part of the line expected, an error line unless ``code`` is 0.
        make: Makes the input.
        code: The exit code.
        stdin: What is on standard input.
        output: Where standard output goes: a ``file``, a ``closed`` pipe, a ``full`` device, a
            file for ``ascii`` only, or a terminal (``pty``).
        wrong: Why the answer is known to be another one.
    """

    name: str
    command: str
    words: tuple[str, ...]
    line: str
    make: Make = nothing
    code: int = 2
    stdin: bytes = b""
    output: str = "file"
    wrong: str = ""


VALID_RUN = Case(
    "a valid run",
    "train",
    (
        "recipe=smoke",
        "adapter=lora",
        "output_dir=run",
        "trainer.max_steps=4",
        "trainer.save_every=2",
        "trainer.keep=2",
        "evaluation.limit=2",
    ),
    "",
    code=0,
)
"""What the valid ``run`` is made by."""


def both(*makes: Make) -> Make:
    """One after the other."""

    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def written(path: str, content: bytes | str) -> Make:
    """A file with this content."""

    def make(folder: Path) -> None:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        replaced(file)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def replaced(file: Path) -> None:
    """Remove what is there, of whatever kind."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def without(path: str) -> Make:
    """The valid folder without this file or folder."""
    return lambda folder: replaced(folder / path)


def copied(name: str) -> Make:
    """A copy of the valid ``run`` or ``model``."""
    return lambda folder: shutil.copytree(valid(folder) / name, folder / name)


def fifo(path: str) -> Make:
    """A named pipe that nobody writes to."""

    def make(folder: Path) -> None:
        replaced(folder / path)
        os.mkfifo(folder / path)

    return make


def directory(path: str) -> Make:
    """A folder where a file belongs."""

    def make(folder: Path) -> None:
        replaced(folder / path)
        (folder / path).mkdir(parents=True)

    return make


def symlink(path: str, target: str) -> Make:
    """A symbolic link to a place outside."""

    def make(folder: Path) -> None:
        replaced(folder / path)
        (folder / path).symlink_to(target)

    return make


def cut(path: str, keep: float = 0.5) -> Make:
    """The beginning of a valid file."""

    def make(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(len(content) * keep)])

    return make


def flipped(path: str, place: float) -> Make:
    """A valid file with one bit changed, at this fraction of its length."""

    def make(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        content[min(int(len(content) * place), len(content) - 1)] ^= 4
        (folder / path).write_bytes(bytes(content))

    return make


def changed(path: str, change: Callable[[dict], object]) -> Make:
    """A valid JSON file whose content the function changes in place."""

    def make(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        change(content)
        (folder / path).write_text(json.dumps(content))

    return make


def put(path: str, **values: object) -> Make:
    """A valid JSON file with these values; ``a__b`` is a key inside a key."""

    def change(content: dict) -> None:
        for key, value in values.items():
            *outer, last = key.split("__")
            inner = content
            for name in outer:
                inner = inner[name]
            inner[last] = value

    return changed(path, change)


def replaced_text(path: str, old: str, new: str) -> Make:
    """A valid text file with one part replaced, which must be there."""

    def make(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        (folder / path).write_text(text.replace(old, new))

    return make


DEEP = "[" * 100_000 + "]" * 100_000
LONG_INTEGER = "7" * 5000
NOT_TEXT: dict[str, bytes] = {
    "binary": bytes(range(256)) * 16,
    "utf-16": '{"a": 1}\n'.encode("utf-16"),
    "latin-1": '{"a": "é"}\n'.encode("latin-1"),
    "empty": b"",
}
"""Bytes that are no JSON and no YAML document in UTF-8."""
NOT_A_MAPPING: dict[str, str] = {
    "list": "[1, 2]",
    "number": "7",
    "null": "null",
    "deep": DEEP,
    "long integer": f'{{"a": {LONG_INTEGER}}}',
    "cut": '{"a": ',
}
"""JSON that a reader of a mapping refuses."""
