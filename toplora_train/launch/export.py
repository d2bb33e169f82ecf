"""The command ``toplora-export``."""

from __future__ import annotations

import sys
from pathlib import Path

from toplora_train.config.arguments import Key, parse_arguments, show_usage
from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.plugins import load_plugins, needed_to_use
from toplora_train.config.resolved import read_config
from toplora_train.launch.command import run_words

COMMAND = "toplora-export"
PURPOSE = (
    "Export a run's adapter to a format that needs no toplora-train, and verify it: as a plain "
    "LoRA,\nor merged into the base model's weights. TopLoRA supports neither, because its gate "
    "depends on the\ntoken. Or upload the adapter as it is, with model card and report, to the hub."
)
SWITCH = ("true", "false")
PUSH = ("push", "private", "report", "dry_run")
KEYS = (
    Key("run", "the run directory, the one with report.json", required=True),
    Key(
        "format",
        "lora: an adapter for PEFT; merged: a checkpoint for transformers",
        choices=("lora", "merged"),
    ),
    Key("output", "the folder to write, by default RUN/FORMAT"),
    Key("push", "the hub's repository, owner/name, to upload the run's adapter to"),
    Key("private", "whether a new repository is private, by default true", choices=SWITCH),
    Key("report", "whether the report is uploaded too, by default true", choices=SWITCH),
    Key("dry_run", "only list what would be uploaded; needs no network", choices=SWITCH),
    Key("config_dir", "the folder with the modules of your own that the run uses"),
    Key(
        "trust_remote_code",
        "whether the base model's own Python code may run; never taken from the run",
        choices=SWITCH,
    ),
)


def main() -> int:
    """``toplora-export``: returns the exit code."""
    return run_words(_export, show_usage(COMMAND, PURPOSE, KEYS))


def _export(words: list[str]) -> None:
    given = parse_arguments(words, KEYS, command=COMMAND)
    run_dir = Path(given["run"])
    if not run_dir.is_dir():
        raise UserError(f"run={run_dir}: there is no such folder")
    for key in PUSH[1:]:
        if key in given and "push" not in given:
            raise UserError(f"{key}={given[key]} applies to push=owner/name, which is not given")
    if "push" in given:
        _push(given, run_dir)
        return
    if "format" not in given:
        raise UserError("give format=lora|merged to write a folder, or push=owner/name to upload")
    config = read_config(run_dir / "config.yaml")
    if (task := head_task(config)) is not None:
        raise UserError(
            f"{run_dir} trained a head for {task.name}, and only language models can be exported; "
            "load its adapter/ with PEFT, which includes the head"
        )
    load_plugins(
        needed_to_use(config.plugins), [given["config_dir"]] if "config_dir" in given else []
    )
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
    if done.dora:
        say(
            console,
            "it is a DoRA (use_dora in its adapter_config.json): software that reads plain LoRAs "
            "only computes something else with it, but not with format=merged",
        )
    if done.quantization is not None:
        say(
            console,
            f"the run trained on {done.quantization} weights; the export was made and verified "
            "with the unquantized base model, on which the adapter's outputs differ slightly",
        )


def _push(given: dict[str, str], run_dir: Path) -> None:
    for key in given:
        if key not in ("run", *PUSH):
            raise UserError(
                f"push= uploads the run's own adapter, so {key}= has no effect; leave one of the "
                "two out (an exported folder is uploaded by `hf upload owner/name FOLDER`)"
            )
    from toplora_train.report.display import plain_console, say
    from toplora_train.report.numbers import counted, memory
    from toplora_train.run.push import files_to_push, names_folders, push  # heavy

    console, repo = plain_console(), given["push"]
    files = files_to_push(run_dir, repo, report=given.get("report") != "false")
    for name, file in files.items():
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        say(console, f"{memory(size):>9}  {name}")
    if named := names_folders(files):
        say(console, f"{', '.join(named)}: holds paths of your home folder")
    if given.get("dry_run") == "true":
        say(console, f"{counted(len(files), 'file')} would go to {repo}; nothing was uploaded")
        return
    address = push(files, repo, private=given.get("private") != "false")
    say(console, f"{counted(len(files), 'file')} uploaded: {address}")


if __name__ == "__main__":
    sys.exit(main())
