"""``toplora-eval`` as it is typed."""

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.run.finished import finished_run
from toplora_train.config.errors import Interrupted
from toplora_train.launch import evaluate


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora-eval", *words])
    return evaluate.main()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "run is not given: run=RUN, the run directory"),
        (["run=nowhere"], "run=nowhere: there is no such folder"),
        (["run=RUN", "taks=[gsm8k]"], "unknown key 'taks'; did you mean 'task'?"),
        (["run=RUN", "task=[gsm8q]"], "no task named 'gsm8q'; did you mean 'gsm8k'?"),
        (["run=RUN", "batch_size=many"], "evaluation.batch_size must be an integer"),
        (["run=RUN", "rescore=legacy"], "rescore must be one of clean, legacy.toplora"),
        (
            ["run=RUN", "rescore=clean", "limit=5"],
            "rescore reuses the stored outputs, so limit= has no effect with it",
        ),
        (["run=RUN", "config_dir=nowhere"], "config_dir=nowhere: there is no such folder"),
        (["run=RUN", "processes=0"], "processes=0 must be a whole number above zero, or auto"),
        (["run=RUN", "processes=2", "device=mps"], "launch.processes=2, but an Apple GPU runs"),
        (["run=RUN", "rescore=clean", "processes=2"], "rescore reuses the stored outputs"),
        (["run=EMPTY"], "EMPTY is not a run directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words, line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    finished_run(tmp_path / "run", {"a": "1"})
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(tmp_path / "run"), "EMPTY": str(tmp_path / "empty")}
    for name, place in places.items():
        words = [word.replace(f"={name}", f"={place}") for word in words]
        line = line.replace(name, place) if name == "EMPTY" else line
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_rescoring_prints_the_scores_and_their_location(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    finished_run(tmp_path, {"a": "so it is 12", "b": "13"})
    assert run(monkeypatch, f"run={tmp_path}", "rescore=legacy.llm_adapters") == 0
    shown = capsys.readouterr().out
    assert "arithmetic: base 0.0 %" in shown
    assert "tuned 50.0 %" in shown
    report = tmp_path / "evaluations" / "rescored-legacy.llm_adapters" / "report.json"
    assert json.loads(report.read_text())["command"].startswith("toplora-eval run=")


def test_the_name_is_determined_by_the_words_and_unique_to_them():
    words = [
        {"run": "x"},
        {"run": "x", "task": "[gsm8k,svamp]"},
        {"run": "x", "task": "gsm8k", "limit": "5"},
        {"run": "x", "protocol": "legacy.toplora"},
        {"run": "x", "multiple_choice": "choose"},
    ]
    names = [evaluate.name_of(given) for given in words]
    assert len(set(names)) == len(names)
    assert names[:2] == ["again", "gsm8k-svamp"]
    assert evaluate.name_of({"run": "y", "batch_size": "4"}) == "again"


def test_help_shows_the_keys(monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, "--help") == 0
    assert "usage: toplora-eval run=RUN [task=TASK]" in capsys.readouterr().out


def test_an_interruption_says_that_the_same_command_resumes(monkeypatch, capsys):
    def interrupted(_words):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(evaluate, "evaluate_words", interrupted)
    monkeypatch.setattr(sys, "argv", ["toplora-eval", "run=x"])
    assert evaluate.main() == 143
    assert capsys.readouterr().err == (
        "interrupted by signal 15; "
        "the predictions so far are kept: run the same command to resume\n"
    )
    monkeypatch.setattr(sys, "argv", ["toplora-eval", "run=x", "harness=[piqa]"])
    assert evaluate.main() == 143
    assert capsys.readouterr().err == "interrupted by signal 15\n"
