"""Validate ``adapter_config.json`` before PEFT acts on it.

PEFT trusts this file: it imports the module that ``megatron_core`` names, copies layers for
``layer_replication``, and reserves memory for any rank. What it still refuses in its own way, with
one of many exceptions, is turned into a line by :func:`peft_errors`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from toplora_train.config.errors import UserError, one_line

UNSUPPORTED = {
    "layer_replication": "repeats layers of the base model",
    "megatron_config": "imports Megatron",
}
PATTERNS = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")
PATTERN_KEYS = ("rank_pattern", "alpha_pattern")
MATCHING = 20  # seconds, in which a busy machine can start Python
TRIAL = """
import json, re, sys
pattern, names = json.load(sys.stdin)
for form in (pattern, rf"(.*\\.)?({pattern})$", rf".*\\.{pattern}\\.(\\d+)\\."):  # as PEFT does
    for name in names:
        re.match(form, name)
        re.fullmatch(form, name)
"""
RANKS = ("r", "ranks", "rank", "rank_pattern")


def validate_stored_config(config: Mapping[str, Any], file: Path) -> None:
    """Refuse settings that this package does not load, or that PEFT would misread.

    Raises:
        UserError: Names the file and the setting.
    """
    kind, bias = config.get("peft_type"), config.get("bias", "none")
    if not isinstance(kind, str):
        raise UserError(f"{file}: peft_type must be a method's name, not {kind!r}")
    if not isinstance(bias, str) or not (bias in {"none", "all"} or bias.endswith("_only")):
        raise UserError(f"{file}: unknown bias {bias!r}; known are none, all and NAME_only")
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            raise UserError(f"{file}: {key} is not supported (it {what})")
    for key, pattern in _patterns(config):
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(
                f"{file}: {key} has {pattern!r}, which is not a regular expression ({error})"
            ) from None


def validate_matching(config: Mapping[str, Any], names: Sequence[str], file: Path) -> None:
    """Refuse a pattern that takes forever to match the names of the model's modules.

    Python cannot interrupt a match, so patterns that repeat more than once are tried in a process
    of their own.

    Raises:
        UserError: Names the file and the setting.
    """
    for key, pattern in _patterns(config):
        if len(re.findall(r"[*+?{|]", pattern)) < 2:
            continue
        try:
            subprocess.run(
                [sys.executable, "-I", "-c", TRIAL],
                input=json.dumps([pattern, names]).encode(),
                timeout=MATCHING,
                check=True,
                capture_output=True,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{file}: {key} has {one_line(pattern)!r}, which takes longer than {MATCHING} s to "
                "match the names of the model's modules"
            ) from None


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every regular expression, with its key."""
    for key in (*PATTERNS, *PATTERN_KEYS):
        value = config.get(key)
        patterns = [value] if isinstance(value, str) else value or ()
        for pattern in patterns if isinstance(patterns, list | Mapping | tuple) else ():
            yield key, str(pattern)


def validate_ranks(config: Mapping[str, Any], shapes: Mapping[str, Any], file: Path) -> None:
    """Refuse a rank that the saved tensors cannot have, before memory is reserved for it.

    Args:
        config: The content of ``adapter_config.json``.
        shapes: The shapes of the saved tensors.
        file: The config's path, for the message.

    Raises:
        UserError: Names the rank.
    """
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for key in RANKS:
        value = config.get(key)
        entries = value.values() if isinstance(value, Mapping) else [value]
        for entry in entries if not isinstance(value, list) else value:
            if isinstance(entry, str):
                raise UserError(f"{file}: {key} is {entry!r}, not a number")
            if isinstance(entry, int) and entry > max(largest, 1):
                raise UserError(
                    f"{file}: {key} is {entry}, but no saved tensor is larger than {largest}"
                )


@contextmanager
def peft_errors(place: str) -> Iterator[None]:
    """Turn what PEFT raises for a strange config or file into one line that begins with ``place``.

    Raises:
        UserError: In place of PEFT's exception, but for lack of memory.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except KeyError as error:
        raise UserError(f"{place}: {one_line(error.args[0])} is missing") from error
    except (
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
        AssertionError,
        ArithmeticError,
        RuntimeError,
        ImportError,
        UserWarning,
        re.error,
        SafetensorError,
    ) as error:
        raise UserError(f"{place}: {one_line(error)}") from error
