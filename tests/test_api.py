"""From Python and in the notebook, the commands' own code writes the commands' own files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import toplora_train
from toplora_train.adapters.saving import file_digests
from toplora_train.api import Run

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"


def test_the_package_of_the_loop_is_callable_as_the_function():
    import toplora_train.train.loop  # Python sets the package's name on the module above

    with pytest.raises(toplora_train.UserError, match="no recipe named 'smok'; did you mean"):
        toplora_train.train(recipe="smok")
    assert toplora_train.train.loop.__name__ == "toplora_train.train.loop"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"recipe": "smoke", "plan": True}, "use the command toplora-train"),
        ({"recipe": "smoke", "config_dir": "nowhere"}, "config_dir=nowhere: there is no such"),
        ({"trainer": {"max_stps": 3}}, "did you mean 'trainer.max_steps'"),
    ],
)
def test_a_mistake_is_an_exception_of_one_line(settings, line):
    with pytest.raises(toplora_train.UserError, match=line):
        toplora_train.train(**settings)


def test_a_folder_without_a_run_is_named(tmp_path):
    for call in (toplora_train.load, toplora_train.evaluate):
        with pytest.raises(toplora_train.UserError, match=str(tmp_path)):
            call(tmp_path)
    with pytest.raises(toplora_train.UserError, match="no run given"):
        toplora_train.compare()
    with pytest.raises(toplora_train.UserError, match="unknown key 'limt'; did you mean 'limit'"):
        toplora_train.evaluate(Run(tmp_path), limt=3)


@pytest.mark.slow
def test_the_notebooks_adapter_is_the_command_lines_byte_for_byte(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    command = ["recipe=smoke", "adapter=toplora", "adapter.r=4", "output_dir=runs/command"]
    subprocess.run([sys.executable, "-m", "toplora_train.cli", *command], check=True)
    files = file_digests(tmp_path / "runs" / "command" / "adapter")
    assert files == file_digests(names["run"].adapter)
    assert len(files) >= 2
    predictions = [
        (tmp_path / "runs" / run / "predictions" / "arithmetic.jsonl").read_bytes()
        for run in ("command", "toplora")
    ]
    assert predictions[0] == predictions[1]
    assert names["again"]["tasks"]["arithmetic"]["n"] == 4
    assert (tmp_path / "runs" / "comparison" / "comparison.html").is_file()
