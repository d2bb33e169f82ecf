"""Strategies that turn a valid file into one that may be anything."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

TOKENS = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\x1b]0;x\x07",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"1" * 5000,
    b"1e999",
    b"-1",
    b"NaN",
    b"null",
    b"{}",
    b"[]",
    b'"',
    b"\\ud800",
    b"*a",
    b"&a [*a, *a]",
    b"!!python/object/apply:os.system [true]",
    b"${oc.env:HOME}",
    b"../../x",
    "\N{RIGHT-TO-LEFT OVERRIDE}é".encode(),
    "{}".encode("utf-16"),
]
STRANGE = [
    None,
    True,
    -1,
    0,
    3,
    10**9,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "(",
    "12",
    "\ud800",
    "\x1b[2J",
    "../../x",
    [],
    {},
    [[]],
    ["x"],
    {"x": 1},
    {"": None},
]


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with some bytes flipped, cut off, repeated, inserted or replaced."""
    for _ in range(draw(st.integers(1, 3))):
        a, b = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        match draw(st.integers(0, 4)):
            case 0:
                content = content[:a] + bytes([draw(st.integers(0, 255))]) + content[a + 1 :]
            case 1:
                content = content[:a]
            case 2:
                content = content[:a] + content[b:]
            case 3:
                content = content[:a] + content[a:b] * 2 + content[b:]
            case _:
                token = draw(st.sampled_from(TOKENS) | st.binary(max_size=20))
                content = content[:a] + token + content[draw(st.sampled_from([a, b])) :]
    return content


@st.composite
def changed_json(draw: st.DrawFn, document: Any) -> Any:
    """The document with a value at any place replaced, removed, or added."""
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(STRANGE))
    keys = list(document) if isinstance(document, dict) else range(len(document))
    key = draw(st.sampled_from(keys))
    copy = document.copy()
    match draw(st.integers(0, 5)):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, dict):
            copy[draw(st.sampled_from(["x", "schema_version", "name", "id", ""]))] = copy.pop(key)
        case _:
            copy[key] = draw(changed_json(copy[key]))
    return copy


@st.composite
def changed_file(draw: st.DrawFn, content: bytes) -> bytes:
    """A mutation of the bytes; for JSON (or its lines) half of the time one of the values."""
    if draw(st.booleans()):
        try:
            return json.dumps(draw(changed_json(json.loads(content)))).encode()
        except ValueError:
            pass
        lines = content.splitlines()
        index = draw(st.integers(0, max(len(lines) - 1, 0)))
        try:
            lines[index] = json.dumps(draw(changed_json(json.loads(lines[index])))).encode()
            return b"\n".join([*lines, b""])
        except (ValueError, IndexError):
            pass
    return draw(changed_bytes(content))
