"""The configuration from Python: keyword arguments as the words of a command line.

``adapter={"name": "toplora", "r": 4}, seed=2`` is ``adapter=toplora adapter.r=4 seed=2``, and is
composed and validated like these words.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import open_dict

from toplora_train.config.compose import prepare_hydra, run_config, validate_option_names
from toplora_train.config.errors import UserError
from toplora_train.config.explain import COMPOSITION_ERRORS, explain, validate_overrides
from toplora_train.config.locate import conf_dir, groups
from toplora_train.config.schema import RunConfig

_COMPOSING = threading.Lock()


def override_words(settings: Mapping[str, Any]) -> list[str]:
    """The command line's words for settings.

    Args:
        settings: A group's option (``model="tiny"``), a group's keys with or without its option as
            ``name`` (``trainer={"max_steps": 5}``), tasks by name (``task=["boolq"]`` or
            ``task={"boolq": {"version": 2}}``), or the value of another key (``seed=2``).
    """
    words = []
    for key, value in settings.items():
        if key == "task" and not isinstance(value, str):
            words.append(f"task=[{','.join(value)}]")
            value = {} if not isinstance(value, Mapping) else value
            words += [
                f"task.{task}.{name}={_literal(inner)}"
                for task, changes in value.items()
                for name, inner in changes.items()
            ]
        elif isinstance(value, Mapping):
            words += [f"{key}={value['name']}"] if "name" in value else []
            words += [f"{key}.{name}={_literal(v)}" for name, v in value.items() if name != "name"]
        else:
            is_option = key in groups() and isinstance(value, str)
            words.append(f"{key}={value if is_option else _literal(value)}")
    return words


def compose_run(words: Sequence[str], own: Sequence[Path] = ()) -> RunConfig:
    """The configuration of ``toplora-train WORDS --config-dir FOLDER``, composed in this process.

    Raises:
        UserError: As on the command line.
    """
    folders = [folder.absolute() for folder in own]
    prepare_hydra()
    try:
        validate_overrides(words)
        validate_option_names(folders)
        search = [f"hydra.searchpath=[{','.join(_literal(f'file://{f}') for f in folders)}]"]
        with _hydra_to_oneself():
            composed = compose(
                "config", [*words, *(search if folders else [])], return_hydra_config=True
            )
    except COMPOSITION_ERRORS as error:
        raise UserError(explain(error, words, folders)) from error
    hydra = composed.hydra
    with open_dict(composed):
        del composed["hydra"]
    argv = [*words, *(word for folder in folders for word in ("--config-dir", str(folder)))]
    return run_config(composed, hydra, argv)


@contextmanager
def _hydra_to_oneself() -> Iterator[None]:
    """Initialize Hydra, which has one state for the process: for other threads and programs."""
    with _COMPOSING:
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().hydra = None
        try:
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = before  # Hydra has put another instance in its place


def _literal(value: Any) -> str:
    """A value in the grammar of Hydra's overrides; numpy's numbers are Python's."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str | Path):
        return QuotedString(text=str(value), quote=Quote.single).with_quotes()
    if isinstance(value, Mapping):
        keys = [re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", str(key)) for key in value]  # not quotable
        inner = ",".join(
            f"{k}:{_literal(entry)}" for k, entry in zip(keys, value.values(), strict=True)
        )
        return f"{{{inner}}}"
    if isinstance(value, Sequence):
        return f"[{','.join(_literal(entry) for entry in value)}]"
    if isinstance(value, int | float):
        return repr(value)
    raise UserError(f"{value!r} is a {type(value).__name__}, which no setting can be")
