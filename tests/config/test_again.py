from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.conftest import tiny_run
from toplora_train.config.again import evaluation_config, read_task
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import read_config, write_config
from toplora_train.config.schema import ModelSettings

OWN = """# @package task.mine
name: mine
source: mine.jsonl
extraction: number
"""


def test_without_changes_it_is_the_runs_own_configuration(tmp_path: Path):
    config = tiny_run(tmp_path)
    write_config(config, tmp_path / "config.yaml")
    assert evaluation_config(config) == read_config(tmp_path / "config.yaml")


def test_other_tasks_replace_the_runs_own_and_its_test_rows(tmp_path: Path):
    config = tiny_run(tmp_path)
    again = evaluation_config(config, tasks=["gsm8k", "boolq"])
    assert list(again.task) == ["gsm8k", "boolq"]
    assert again.task["boolq"].choices == ["true", "false"]
    assert again.dataset.test is None


def test_a_task_of_the_run_keeps_the_runs_settings_and_module(tmp_path: Path):
    config = tiny_run(tmp_path)
    (task,) = config.task.values()
    own = replace(task, max_new_tokens=2, extraction="exact")
    plugins = {"task/arithmetic": "a" * 64, "task/other": "b" * 64, "adapter/mine": "c" * 64}
    ran = replace(config, plugins=plugins, task={"arithmetic": own, "other": task})
    again = evaluation_config(ran, tasks=["gsm8k", "arithmetic"])
    assert list(again.task) == ["gsm8k", "arithmetic"]
    assert again.task["arithmetic"] == own
    assert again.plugins.keys() == {"task/arithmetic", "adapter/mine"}


def test_values_are_parsed_as_in_a_file(tmp_path: Path):
    words = {"limit": "null", "batch_size": "7", "base": "false", "protocol": "legacy.toplora"}
    again = evaluation_config(tiny_run(tmp_path), evaluation=words, data_root="x", device="cpu")
    assert (again.evaluation.limit, again.evaluation.batch_size) == (None, 7)
    assert again.evaluation.base is False
    assert again.data_root == str(Path("x").absolute())


def test_a_setting_without_effect_on_the_tasks_is_refused_as_in_training(tmp_path: Path):
    with pytest.raises(UserError, match=r"^evaluation\.option_score applies to"):
        evaluation_config(tiny_run(tmp_path), evaluation={"option_score": "mean"})


def test_an_invalid_value_is_rejected_by_key(tmp_path: Path):
    with pytest.raises(UserError, match=r"evaluation\.batch_size must be at least 1, not 0"):
        evaluation_config(tiny_run(tmp_path), evaluation={"batch_size": "0"})


def test_an_unknown_task_is_reported_with_the_nearest(tmp_path: Path):
    with pytest.raises(UserError, match=r"no task named 'gsm8q'; did you mean 'gsm8k'\?"):
        evaluation_config(tiny_run(tmp_path), tasks=["gsm8q"])


def test_a_users_task_is_one_file_in_a_folder(tmp_path: Path):
    path = tmp_path / "task" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(OWN)
    again = evaluation_config(tiny_run(tmp_path), tasks=["mine"], own=[tmp_path])
    assert again.task["mine"].source == "mine.jsonl"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN + "extracton: number\n", "unknown key 'extracton'; did you mean 'extraction'?"),
        (OWN.partition("\n")[2], "first line must be '# @package task.mine'"),
    ],
)
def test_an_error_in_a_task_file_is_reported(tmp_path: Path, text, message):
    path = tmp_path / "task" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_task("mine", [tmp_path])


def test_a_strangers_run_cannot_consent_to_running_its_models_code(tmp_path: Path):
    model = ModelSettings(name="own", path="owner/name", trust_remote_code=True)
    config = tiny_run(tmp_path, model=model)
    assert not evaluation_config(config).model.trust_remote_code
    assert evaluation_config(config, trust_remote_code=True).model.trust_remote_code


@pytest.mark.parametrize("text", ["[", "7" * 5000, "*a", "!!python/name:os.system"])
def test_a_value_that_is_no_yaml_is_rejected_by_key(tmp_path: Path, text: str):
    with pytest.raises(UserError, match=r"^limit=.* cannot be read"):
        evaluation_config(tiny_run(tmp_path), evaluation={"limit": text})
