"""The command ``toplora-fuse``."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toplora_train.config.arguments import Key, parse_arguments, parse_list, quoted, show_usage
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import ModelSettings, RunConfig
from toplora_train.config.yaml_file import option_values
from toplora_train.launch.command import run_words

COMMAND = "toplora-fuse"
PURPOSE = (
    "Make one model of several finished runs on the same base model. method=flow trains a gate "
    "that\nweights their adapters for each token (LoRA-Flow) on a few rows, and is a run of "
    "toplora-train:\nits other words follow, task=[gsm8k] trainer.max_steps=50. The other methods "
    "train nothing: they\ncombine plain LoRAs by fixed weights, as PEFT does."
)
TRIMMED = ("ties", "dare_linear", "dare_ties")
METHODS = ("flow", "linear", "cat", *TRIMMED)
SWITCH = ("true", "false")
KEYS = (
    Key(
        "runs", "two or more runs, runs=[A,B]; the first one's base model and prompt", required=True
    ),
    Key("method", "by default flow", choices=METHODS),
    Key("train", "the rows that method=flow trains the gate on"),
    Key("output", "the run directory to write"),
    Key("weights", "of the fixed methods, weights=[0.7,0.3]; by default 1/k each, their mean"),
    Key("density", "the share of entries that ties and dare keep, by default 0.5"),
    Key("seed", "of training, or of the entries that dare drops; by default 1"),
    Key(
        "trust_remote_code",
        "whether the base model's own Python code may run; never taken from the run",
        choices=SWITCH,
    ),
)


def main() -> int:
    """``toplora-fuse``: returns the exit code."""
    return run_words(_fuse, show_usage(COMMAND, PURPOSE, KEYS))


def _fuse(words: list[str]) -> None:
    known = {key.name for key in KEYS}
    is_flow = not any(w.startswith("method=") and w != "method=flow" for w in words)
    further = [w for w in words if is_flow and "=" in w and w.partition("=")[0] not in known]
    given = parse_arguments([w for w in words if w not in further], KEYS, command=COMMAND)
    runs = [Path(run) for run in parse_list(given["runs"])]
    if is_flow:
        train = training_words(runs, given, further)
        print(shlex.join(["toplora-train", *train]), flush=True)
        os.execv(sys.executable, [sys.executable, "-P", "-m", "toplora_train.cli", *train])
    method = given["method"]
    if "train" in given:
        raise UserError(f"method={method} trains nothing, so train= has no effect; leave it out")
    if "output" not in given:
        raise UserError("output is not given: output=FOLDER, the run directory to write")
    weights, density = find_weights(given, len(runs)), find_density(given)
    seed = given.get("seed", "1")
    if not seed.isdecimal():
        raise UserError(f"seed={seed} must be a whole number")

    from toplora_train.report.display import plain_console, say
    from toplora_train.run.fuse import Combination, fuse  # heavy: only for a valid command

    output = Path(given["output"]).expanduser().absolute()
    difference = fuse(
        runs,
        Combination(method, weights, density, int(seed)),
        output,
        command=shlex.join([COMMAND, *words]),
        trust_remote_code=given.get("trust_remote_code") == "true",
    )
    say(
        plain_console(),
        f"{output}: a plain LoRA; reloaded, its logits differ by at most {difference:.2g}. "
        f"Evaluate it: toplora-eval run={shlex.quote(str(output))}",
    )


def training_words(
    runs: Sequence[Path], given: dict[str, str], further: Sequence[str]
) -> list[str]:
    """The words of ``toplora-train`` that train the gate.

    Args:
        runs: The runs to fuse; the first one's base model and prompt are taken.
        given: The command's own keys.
        further: Words of ``toplora-train``; they may choose another model.

    Raises:
        UserError: A key of the other methods is given, or no rows are.
    """
    for key in ("weights", "density"):
        if key in given:
            raise UserError(f"{key}= is for fixed weights, method={'|'.join(METHODS[1:])}")
    if "train" not in given:
        raise UserError("train is not given: train=FILE.jsonl, the rows to train the gate on")
    paths = [quoted(str(run.expanduser().absolute())) for run in runs]
    words = [
        "adapter=fusion",
        f"adapter.runs=[{','.join(paths)}]",
        "dataset=jsonl",
        f"dataset.train={quoted(given['train'])}",
    ]
    file = runs[0] / "config.yaml" if runs else Path()
    if file.is_file():
        own = run_words_of(read_config(file))
        if any(word.startswith(("model=", "model.path=")) for word in further):
            own = [word for word in own if not word.startswith(("model=", "model."))]
        words += own
    if "output" in given:
        words.append(f"output_dir={quoted(given['output'])}")
    if "seed" in given:
        words.append(f"seed={given['seed']}")
    if "trust_remote_code" in given:
        words.append(f"model.trust_remote_code={given['trust_remote_code']}")
    chosen = {word.partition("=")[0] for word in further}
    return [*(word for word in words if word.partition("=")[0] not in chosen), *further]


def run_words_of(config: RunConfig) -> list[str]:
    """The words that choose a run's base model, and the prompt and length of its rows."""
    option = options("model").get(config.model.name)
    fallback: dict[str, Any] = {} if option is None else dict(option_values(option.path))
    defaults = asdict(ModelSettings(name=config.model.name)) | fallback
    words = [] if option is None else [f"model={config.model.name}"]
    for key, value in asdict(config.model).items():
        if key != "trust_remote_code" and (option is None or value != defaults[key]):
            words.append(f"model.{key}={quoted(value)}")
    if config.dataset.prompt is not None:
        words.append(f"dataset.prompt={quoted(config.dataset.prompt)}")
    return [*words, f"dataset.max_length={quoted(config.dataset.max_length)}"]


def find_weights(given: dict[str, str], count: int) -> list[float]:
    """One weight for each run; 1/k by default.

    Raises:
        UserError: Their number is not that of the runs, or one is not a finite number.
    """
    if "weights" not in given:
        return [1 / max(count, 1)] * count
    weights = [_number("weights", word) for word in parse_list(given["weights"])]
    if len(weights) != count:
        raise UserError(f"weights has {len(weights)} numbers for {count} runs; give one for each")
    return weights


def find_density(given: dict[str, str]) -> float | None:
    """The density of a method that trims, 0.5 by default.

    Raises:
        UserError: It is not between zero and one, or the method trims nothing.
    """
    if given["method"] not in TRIMMED:
        if "density" in given:
            raise UserError(f"density= is for method={'|'.join(TRIMMED)}; leave it out")
        return None
    density = _number("density", given.get("density", "0.5"))
    if not 0 < density <= 1:
        raise UserError(f"density must be above 0 and at most 1, not {density:g}")
    return density


def _number(key: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{key} must be numbers, not '{word}'")
    return value


if __name__ == "__main__":
    sys.exit(main())
