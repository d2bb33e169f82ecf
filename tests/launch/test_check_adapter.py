"""``toplora-check-adapter`` as it is typed."""

import shutil
import sys
from pathlib import Path

import pytest

from toplora_train.config import plugins
from toplora_train.contract import checks
from toplora_train.launch import check_adapter

OWN = Path(__file__).resolve().parents[2] / "docs" / "own" / "adapter"
START = "the model starts as the base model"


@pytest.fixture(autouse=True)
def _one_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "CHECKS", {START: checks.CHECKS[START]})
    monkeypatch.setattr(plugins, "_LOADED", {})


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora-check-adapter", *words])
    return check_adapter.main()


def test_what_holds_is_shown(monkeypatch, capsys):
    assert run(monkeypatch, str(OWN / "diagonal.py")) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"holds  {START}",
        "adapter=diagonal: all 1 checks hold",
    ]


def test_what_fails_is_shown_and_the_exit_code_is_1(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "adapter"
    folder.mkdir()
    code = (
        (OWN / "diagonal.py").read_text().replace("diagonal", "askew").replace("Diagonal", "Askew")
    )
    (folder / "askew.py").write_text(code.replace("torch.zeros(", "torch.ones("))
    settings = (OWN / "diagonal.yaml").read_text()
    (folder / "askew.yaml").write_text(settings.replace("name: diagonal", "name: askew"))
    assert run(monkeypatch, str(folder / "askew.py")) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith(f"FAILS  {START}\n       Tensor-likes are not close!")
    assert shown.err == "error: adapter=askew: 1 of 1 checks fail\n"


def test_an_adapter_of_the_package_is_checked_by_its_name(monkeypatch, capsys):
    assert run(monkeypatch, "lora") == 0
    assert "adapter=lora: all 1 checks hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("lorra", "no adapter named 'lorra'; did you mean 'lora'?"),
        (
            "nowhere/adapter/x.py",
            "nowhere/adapter/x.py: an adapter is a file FOLDER/adapter/NAME.py",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(word, line, monkeypatch, capsys):
    assert run(monkeypatch, word) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_a_module_without_its_yaml_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "adapter").mkdir()
    shutil.copy(OWN / "diagonal.py", tmp_path / "adapter")
    assert run(monkeypatch, str(tmp_path / "adapter" / "diagonal.py")) == 2
    assert "diagonal.yaml: no such file; its keys are the adapter's" in capsys.readouterr().err
