"""The completion script, run by bash."""

import shutil
import subprocess
import sys

import pytest

from toplora_train.launch import completion

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def complete(line: str, before: str = "") -> list[str]:
    """What bash offers at the end of ``line``."""
    script = (
        f'{before}{completion.completion_script()}\nCOMP_LINE="{line}"; _toplora '
        f'"{line.split()[0]}" "{line.rpartition(" ")[2]}"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


@bash
@pytest.mark.parametrize("command", ["toplora-export", "toplora export", "/bin/toplora-export"])
def test_a_commands_keys_and_choices_are_offered(command: str):
    assert complete(f"{command} form") == ["format=lora", "format=merged"]
    assert "run=" in complete(f"{command} ")


@bash
def test_the_front_door_offers_its_commands():
    assert complete("toplora ge") == ["generate"]
    assert complete("toplora c") == ["completion", "cache"]


@bash
def test_a_key_that_names_a_file_completes_its_path(tmp_path):
    (tmp_path / "some-run").mkdir()
    assert complete(f"toplora-eval run={tmp_path}/so") == [f"run={tmp_path}/some-run"]


@bash
@pytest.mark.parametrize("command", ["toplora-train", "toplora train"])
def test_hydra_is_asked_about_training_with_the_same_line(command: str):
    script = 'toplora-train() { echo "adapter=${COMP_LINE##*=}x"; }\n'
    assert complete(f"{command} adapter=lo", script) == ["adapter=lox"]


def test_an_unknown_shell_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", ["toplora-completion", "tcsh"])
    assert completion.main() == 2
    assert capsys.readouterr().err == "error: 'tcsh' is no known shell; give one of bash, zsh\n"
