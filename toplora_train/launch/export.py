"""The command ``toplora-export``."""

from __future__ import annotations

import sys
from pathlib import Path

from toplora_train.config.arguments import Key, parse_arguments, show_usage
from toplora_train.config.errors import UserError
from toplora_train.config.plugins import load_plugins, needed_to_use
from toplora_train.config.resolved import read_config
from toplora_train.launch.command import run_command

COMMAND = "toplora-export"
PURPOSE = (
    "Export a run's adapter to a format that needs no toplora-train, and verify it: as a plain "
    "LoRA,\nor merged into the base model's weights. TopLoRA supports neither, because its gate "
    "depends on the\ntoken."
)
KEYS = (
    Key("run", "the run directory, the one with report.json", required=True),
    Key(
        "format",
        "lora: an adapter for PEFT; merged: a checkpoint for transformers",
        required=True,
        choices=("lora", "merged"),
    ),
    Key("output", "the folder to write, by default RUN/FORMAT"),
    Key("config_dir", "the folder with the modules of your own that the run uses"),
    Key(
        "trust_remote_code",
        "whether the base model's own Python code may run; never taken from the run",
        choices=("true", "false"),
    ),
)


def main() -> int:
    """``toplora-export``: returns the exit code."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(show_usage(COMMAND, PURPOSE, KEYS))  # noqa: T201  (for the user)
        return 0
    return run_command(lambda: _export(words))


def _export(words: list[str]) -> None:
    given = parse_arguments(words, KEYS, command=COMMAND)
    run_dir = Path(given["run"])
    if not run_dir.is_dir():
        raise UserError(f"run={run_dir}: there is no such folder")
    recorded = read_config(run_dir / "config.yaml").plugins
    load_plugins(needed_to_use(recorded), [given["config_dir"]] if "config_dir" in given else [])
    from toplora_train.report.display import say
    from toplora_train.run.export import export
    from toplora_train.run.platform.console import (
        open_console,  # heavy: only for a valid command
    )

    console = open_console()
    output = Path(given["output"]) if "output" in given else None
    done = export(
        run_dir,
        format=given["format"],
        output=output,
        trust_remote_code=given.get("trust_remote_code") == "true",
    )
    say(
        console,
        f"{done.format} written to {done.folder}; reloaded, its logits differ by at most "
        f"{done.max_abs_logit_difference:.2g} (largest logit {done.largest_logit:.3g})",
    )
    if done.quantization is not None:
        say(
            console,
            f"the run trained on {done.quantization} weights; the export was made and verified "
            "with the unquantized base model, on which the adapter's outputs differ slightly",
        )
