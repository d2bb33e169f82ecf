"""``toplora-report`` as it is typed."""

import sys
from pathlib import Path

import pytest

from tests.report.run_folders import published_run, run_folder
from toplora_train.launch import compare
from toplora_train.report.published import known_tables


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora-report", *words])
    return compare.main()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "no run given"),
        (["nowhere"], "nowhere: no such folder"),
        (["optput=x"], "'optput=x' is not a run directory"),
        (["--all"], "'--all' is not a run directory"),
        (["gain=much"], "gain=much must be a number of percentage points"),
        (["angles=yes", "."], "angles=yes must be true or false"),
        (["gain=0", "."], "gain=0 must be a number of percentage points"),
        (["table=dora", "."], "table=dora is unknown; the tables are dora_commonsense, lora_glue"),
        (["table=lora_glue", "gain=2", "."], "table=lora_glue compares with published scores"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, line, monkeypatch, capsys):
    assert run_command(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_runs_are_compared_and_the_comparison_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    first = run_folder(tmp_path / "a")
    second = run_folder(tmp_path / "b", adapter="toplora")
    output = tmp_path / "out"
    assert run_command(monkeypatch, str(first), str(second), f"output={output}") == 0
    assert "toplora vs lora" in capsys.readouterr().out
    assert (output / "comparison.html").is_file()


def test_one_run_alone_has_its_report_written_anew(tmp_path: Path, monkeypatch, capsys):
    run = run_folder(tmp_path / "a")
    assert run_command(monkeypatch, str(run)) == 0
    assert f"written to {run / 'report.html'}" in capsys.readouterr().out
    assert "no metrics.jsonl" in (run / "report.html").read_text()


def test_a_baseline_and_a_gain_are_chosen(tmp_path: Path, monkeypatch, capsys):
    for adapter in ("lora", "toplora"):
        for seed in (1, 2):
            run_folder(tmp_path / f"{adapter}{seed}", adapter=adapter, seed=seed)
    words = [str(tmp_path), "baseline=toplora", "gain=2.5", f"output={tmp_path / 'out'}"]
    assert run_command(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert "lora vs toplora" in shown
    assert "seeds for 2.5 points" in shown


def test_a_published_table_is_filled_with_the_runs_scores(tmp_path: Path, monkeypatch, capsys):
    run = published_run(tmp_path / "a", "dora", 16, "llama3_8b", {"boolq": [True, False] * 10})
    words = [str(run), "table=dora_commonsense", f"output={tmp_path / 'out'}"]
    assert run_command(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert "DoRA's commonsense table" in shown
    assert "-24.5" in shown
    assert (tmp_path / "out" / "dora_commonsense.html").is_file()


def test_help_names_every_table(monkeypatch: pytest.MonkeyPatch, capsys):
    run_command(monkeypatch, "-h")
    shown = capsys.readouterr().out
    assert all(name in shown for name in known_tables())


def test_help_explains_runs(monkeypatch: pytest.MonkeyPatch, capsys):
    assert run_command(monkeypatch, "-h") == 0
    assert "usage: toplora-report RUN..." in capsys.readouterr().out


def test_the_adapters_of_one_run_are_not_compared(tmp_path: Path, monkeypatch, capsys):
    run_folder(tmp_path / "a")
    words = (str(tmp_path), "angles=true", f"output={tmp_path / 'out'}")
    assert run_command(monkeypatch, *words) == 2
    assert "angles=true compares the adapters of two runs, and there" in capsys.readouterr().err
