"""The command ``toplora-inspect``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from toplora_train.config.arguments import Key, parse_arguments, show_usage
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.config.plugins import load_plugins, needed_to_use
from toplora_train.config.reading import parse_yaml, read_json
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import ModelSettings
from toplora_train.config.yaml_file import read_yaml
from toplora_train.launch.command import run_words

COMMAND = "toplora-inspect"
PURPOSE = (
    "Look into a saved adapter: singular values and sizes of its updates by layer and module, "
    "TopLoRA's\ngates for the tokens of a text, TensLoRA's factors, GenLoRA's functions, DoRA's "
    "magnitudes. A run's\nreport.html shows them; so does an own page for any adapter of PEFT's."
)
ADAPTER = "adapter_config.json"
RUN_KEYS = ("data_root", "config_dir")
FOLDER_KEYS = ("base", "output")
KEYS = (
    Key("run", "the run directory, or the folder of any adapter saved by PEFT", required=True),
    Key("text", "a text to show TopLoRA's gates of, besides those of the tasks"),
    Key(
        "extras",
        "false: no scores with the gates fixed, no decomposition of matrices as large as weights",
        choices=("true", "false"),
    ),
    Key("data_root", "the local mirror to look for the test rows in"),
    Key("config_dir", "the folder with the modules of your own that the run uses"),
    Key("base", "an adapter's base model: a folder, a hub id or an option of the group model"),
    Key("output", "the folder for an adapter's inspection/, by default its own"),
    Key("device", "where to compute", choices=("auto", "cpu", "cuda", "mps")),
    Key(
        "trust_remote_code",
        "whether the base model's own Python code may run; never taken from the run",
        choices=("true", "false"),
    ),
)


def main() -> int:
    """``toplora-inspect``: returns the exit code."""
    return run_words(_inspect, show_usage(COMMAND, PURPOSE, KEYS))


def _inspect(words: list[str]) -> None:
    given = parse_arguments(words, KEYS, command=COMMAND)
    folder = Path(given["run"])
    if not folder.is_dir():
        raise UserError(f"run={folder}: there is no such folder")
    if not given.get("text", "?").strip():
        raise UserError("text is empty; give a sentence")
    is_run = (folder / "config.yaml").is_file()
    if not is_run and not (folder / ADAPTER).is_file():
        raise UserError(
            f"run={folder}: neither a run (config.yaml) nor a saved adapter ({ADAPTER})"
        )
    kind, others = ("a run", FOLDER_KEYS) if is_run else ("an adapter's folder", RUN_KEYS)
    for key in others:
        if key in given:
            raise UserError(f"{key}={given[key]} does not apply to {kind}; leave it out")
    page = _run(folder, given) if is_run else _folder(folder, given)
    from toplora_train.report.display import plain_console, say

    say(plain_console(), f"written to {page}")


def _run(run_dir: Path, given: dict[str, str]) -> Path:
    config = read_config(run_dir / "config.yaml")
    own = [Path(given["config_dir"])] if "config_dir" in given else []
    load_plugins(needed_to_use(config.plugins), own)
    from toplora_train.config.again import evaluation_config  # heavy, as the import below
    from toplora_train.run.inspect import inspect_run

    again = evaluation_config(
        config,
        data_root=given.get("data_root"),
        device=given.get("device"),
        trust_remote_code=given.get("trust_remote_code") == "true",
    )
    extras = given.get("extras") != "false"
    return inspect_run(again, run_dir, text=given.get("text"), extras=extras)


def _folder(folder: Path, given: dict[str, str]) -> Path:
    config = read_json(folder / ADAPTER)
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise UserError(
            f"{folder / ADAPTER}: an adapter for {config['task_type']} has a head, whose classes "
            "only its run knows; give the run"
        )
    name = given.get("base") or config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UserError(f"{folder / ADAPTER}: names no base model; give it: base=FOLDER")
    from toplora_train.run.inspect import inspect_folder  # heavy

    trusted = given.get("trust_remote_code") == "true"
    return inspect_folder(
        folder,
        Path(given.get("output") or folder),
        replace(base_settings(name), trust_remote_code=trusted),
        text=given.get("text"),
        extras=given.get("extras") != "false",
        device=given.get("device", "auto"),
    )


def base_settings(name: str) -> ModelSettings:
    """The settings of the base model: those of the option with this name or path, if there is one.

    An option may know a package that has the weights.
    """
    if name == "toplora-train/tiny":
        return ModelSettings(name="tiny", builtin="tiny")
    for option, place in options("model").items():
        values: Any = parse_yaml(read_yaml(place.path))
        if name in (option, values.get("path")):
            return ModelSettings(**values)
    return ModelSettings(name=name, path=name)


if __name__ == "__main__":
    sys.exit(main())
