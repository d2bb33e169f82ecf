"""The command ``toplora-generate``."""

from __future__ import annotations

import sys
from pathlib import Path

from toplora_train.config.arguments import Key, parse_arguments, show_usage
from toplora_train.config.decoding import find_decoding
from toplora_train.config.errors import Interrupted, UserError
from toplora_train.config.garbage import without_collection
from toplora_train.config.plugins import load_plugins, needed_to_use
from toplora_train.config.resolved import read_config
from toplora_train.launch.command import run_words

COMMAND = "toplora-generate"
PURPOSE = (
    "Let a run's tuned model answer: a question, the rows of a file, or (with neither) an "
    "interactive\nchat. Prompts and decoding are those of the run's evaluation, unless other "
    "settings are given."
)
KEYS = (
    Key("run", "the run directory, the one with report.json", required=True),
    Key("prompt", "a question, answered on standard output"),
    Key("file", "rows like the run's own, {\"prompt\": ...} or FastChat's questions; needs output"),
    Key("output", "the JSONL file for their answers; the same command resumes after an interrupt"),
    Key("limit", "only the file's first rows"),
    Key("base", "whether to show the base model's answers too", choices=("true", "false")),
    Key("max_new_tokens", "the most tokens of an answer"),
    Key("temperature", "sample at this temperature instead of decoding greedily"),
    Key("top_p", "sample from the most probable tokens with this total probability"),
    Key("seed", "the seed of sampling, by default 1"),
    Key("batch_size", "rows per forward pass"),
    Key("data_root", "the local mirror to look for rows in"),
    Key("config_dir", "the folder with the modules of your own that the run uses"),
    Key("device", "where to compute", choices=("auto", "cpu", "cuda", "mps")),
    Key(
        "trust_remote_code",
        "whether the base model's own Python code may run; never taken from the run",
        choices=("true", "false"),
    ),
)
DECODING = ("max_new_tokens", "temperature", "top_p", "seed", "batch_size")


def main() -> int:
    """``toplora-generate``: returns the exit code."""
    return run_words(_generate, show_usage(COMMAND, PURPOSE, KEYS))


def _generate(words: list[str]) -> None:
    given = parse_arguments(words, KEYS, command=COMMAND)
    run_dir = Path(given["run"])
    if not run_dir.is_dir():
        raise UserError(f"run={run_dir}: there is no such folder")
    _validate_together(given)
    limit = given.get("limit")
    if limit is not None and not (limit.isdecimal() and int(limit)):
        raise UserError(f"limit={limit} must be a whole number above zero")
    config = read_config(run_dir / "config.yaml")
    load_plugins(
        needed_to_use(config.plugins), [given["config_dir"]] if "config_dir" in given else []
    )
    decoding = find_decoding(config, {key: given[key] for key in DECODING if key in given})

    from toplora_train.config.again import evaluation_config  # heavy, as the imports below
    from toplora_train.report.display import plain_console, say

    with without_collection():
        from toplora_train.run.answer_rows import answer_rows
        from toplora_train.run.chat import answer, chat
        from toplora_train.run.generate import open_answerer
        from toplora_train.run.prepare.adapted_model import validate_base_intact
        from toplora_train.run.questions import answer_questions, read_questions

    rows = int(limit) if limit else None
    questions = read_questions(given["file"], rows) if "file" in given else None
    again = evaluation_config(
        config,
        data_root=given.get("data_root"),
        device=given.get("device"),
        trust_remote_code=given.get("trust_remote_code") == "true",
    )
    base = given.get("base") == "true"
    if base:
        validate_base_intact(run_dir)
    answerer = open_answerer(again, run_dir, decoding)
    console = plain_console()
    if "prompt" in given:
        answer(answerer, given["prompt"], [], base=base, console=console)
    elif "file" in given:
        output = Path(given["output"])
        try:
            said = (
                answer_questions(answerer, questions, output, base=base)
                if questions is not None
                else answer_rows(answerer, given["file"], output, base=base, limit=rows)
            )
            say(console, said)
        except Interrupted as interruption:
            kept = "; the answers so far are kept: run the same command to resume"
            raise KeyboardInterrupt(f"{interruption}{kept}") from interruption
    else:
        chat(answerer, base=base)


def _validate_together(given: dict[str, str]) -> None:
    if "prompt" in given and "file" in given:
        raise UserError("prompt= and file= are two ways to ask; give one of them")
    if "file" in given and "output" not in given:
        raise UserError("file= needs a file for the answers: output=answers.jsonl")
    for key in ("output", "limit"):
        if key in given and "file" not in given:
            raise UserError(f"{key}={given[key]} applies to file=FILE, which is not given")
    if not given.get("prompt", "?").strip():
        raise UserError("prompt is empty; give a question")


if __name__ == "__main__":
    sys.exit(main())
