"""Defaults < option of a group < recipe < command line; every file of the package composes."""

import pytest

from toplora_train.config.compose import load_yaml, schema_defaults, validate_option_names
from toplora_train.config.errors import UserError
from toplora_train.config.locate import groups, options


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's folder of options, and a working directory elsewhere."""
    texts = {
        "recipe/mine": "# @package _global_\n# mine\n"
        "defaults:\n  - override /dataset: arithmetic\n  - override /adapter: lora\n"
        "  - override /task: [piqa]\n  - override /trainer: brief\n"
        "optimizer:\n  lr: 3e-4\ntrainer:\n  max_steps: 30\n",
        "trainer/brief": "# short\nname: brief\nmax_steps: 20\nkeep: 7\n",
        "adapter/wide": "# wide\nname: lora\nr: 64\n",
        "adapter/wider": "# on top of the package's own\ndefaults: [toplora]\nr: 128\n",
        "task/mytask": "# @package task.mytask\n# mine\nname: mytask\nsource: mine.jsonl\n",
        "model/mymodel": "# mine\nname: mymodel\npath: me/model\n",
    }
    folder = tmp_path / "own"
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return ["--config-dir", str(folder)]


def test_an_option_wins_over_the_defaults(composed, own):
    assert composed()["trainer"]["max_steps"] is None
    trainer = composed(*own, "trainer=brief")["trainer"]
    assert (trainer["max_steps"], trainer["keep"], trainer["batch_size"]) == (20, 7, 16)


def test_a_recipe_wins_over_the_option_that_it_chose(composed, own):
    config = composed(*own, "recipe=mine")
    assert config["trainer"]["max_steps"] == 30
    assert config["trainer"]["keep"] == 7
    assert config["optimizer"]["lr"] == 3e-4


def test_the_command_line_wins_over_the_recipe(composed, own):
    config = composed(*own, "recipe=mine", "trainer.max_steps=40", "optimizer.lr=1e-5")
    assert config["trainer"]["max_steps"] == 40
    assert config["optimizer"]["lr"] == 1e-5


def test_a_recipe_wins_over_an_option_given_before_or_after_it(composed, own):
    for words in (["recipe=smoke", "trainer=brief"], ["trainer=brief", "recipe=smoke"]):
        config = composed(*own, *words)
        assert config["trainer"]["max_steps"] == 8
        assert config["trainer"]["keep"] == 7


def test_an_explicit_adapter_wins_over_the_recipes(composed, own):
    assert composed(*own, "recipe=mine")["adapter"]["name"] == "lora"
    assert composed(*own, "recipe=mine", "adapter=toplora")["adapter"]["name"] == "toplora"
    assert composed(*own, "adapter=toplora", "recipe=mine")["adapter"]["name"] == "toplora"


def test_a_dataset_brings_its_tasks_unless_others_are_chosen(composed, own):
    assert list(composed()["task"]) == ["arithmetic"]
    assert list(composed(*own, "recipe=mine")["task"]) == ["piqa"]
    assert list(composed(*own, "recipe=mine", "task=[boolq]")["task"]) == ["boolq"]
    assert list(composed("task=[boolq,piqa]")["task"]) == ["boolq", "piqa"]
    assert composed("dataset=jsonl", "dataset.train=a.jsonl")["task"] == {}
    assert list(composed("dataset=jsonl", "dataset.train=a.jsonl", "task=[boolq]")["task"]) == [
        "boolq"
    ]


def test_the_users_own_options_are_options(composed, own):
    config = composed(*own, "adapter=wide", "model=mymodel", "task=[mytask,boolq]")
    assert config["adapter"] == {"name": "lora", "r": 64, "start_from": None}
    assert config["model"]["path"] == "me/model"
    assert config["model"]["dtype"] == "float32"
    assert list(config["task"]) == ["mytask", "boolq"]
    wider = composed(*own, "adapter=wider", "adapter.gate.norm=none")["adapter"]
    assert (wider["name"], wider["r"], wider["gate"]["norm"]) == ("toplora", 128, "none")


def test_arguments_and_flags_can_be_mixed(composed, own):
    assert composed("seed=3", *own, "adapter=wide")["seed"] == 3


def tasks_of_one_run() -> list[list[str]]:
    """All tasks without a head together; a head has a run of its own."""
    files = options("task")
    heads = [
        name
        for name, file in files.items()
        if load_yaml(file.path).get("kind") in ("classify", "regress")
    ]
    return [[name for name in files if name not in heads], *([name] for name in heads)]


def test_every_option_and_task_of_the_package_composes_and_passes_the_check(composed):
    """Side by side: as many compositions as the largest group has options."""
    found = {
        group: [*options(group)]
        for group in groups()
        if group not in ("task", "recipe", "dataset")  # recipes and datasets: tests/test_recipes.py
    }
    tasks = tasks_of_one_run()
    for index in range(max(map(len, [tasks, *found.values()]))):
        chosen = {group: names[index % len(names)] for group, names in found.items()}
        of_run = tasks[index % len(tasks)]
        words = [f"{group}={name}" for group, name in chosen.items()]
        config = composed(*words, f"task=[{','.join(of_run)}]", "dataset.train=rows.jsonl")
        assert {group: config[group]["name"] for group in chosen} == chosen
        assert list(config["task"]) == of_run


def test_a_recipe_describes_itself_its_command_and_what_it_reproduces():
    for recipe in options("recipe").values():
        text = recipe.path.read_text()
        assert text.startswith("# @package _global_\n"), recipe.path
        assert f"recipe={recipe.name}" in text
        assert "Reproduces" in text


def test_an_option_file_names_itself():
    for group in ("model", "dataset", "adapter", "optimizer", "trainer", "evaluation", "tracker"):
        for option in options(group).values():
            assert load_yaml(option.path).name == option.name, option.path


def test_every_default_of_the_schema_is_shown():
    defaults = schema_defaults()
    assert defaults["trainer"]["micro_batch_size"] == 4
    assert defaults["optimizer"]["betas"] == [0.9, 0.999]
    assert defaults["model"]["name"] == "???"


def test_an_option_with_a_name_of_the_packages_is_rejected_not_ignored(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "toplora.yaml").write_text("name: toplora\nr: 3\n")
    with pytest.raises(UserError, match=r"adapter/toplora\.yaml: the package has its own"):
        validate_option_names([tmp_path])


def test_a_root_file_of_ones_own_that_hydra_would_ignore_is_refused(tmp_path):
    for of_another_tool in ("name: mine\n", "- a list\n", "{broken\n"):
        (tmp_path / "config.yaml").write_text(of_another_tool)
        validate_option_names([tmp_path])
    (tmp_path / "config.yaml").write_text("defaults:\n  - adapter: lora\n")
    with pytest.raises(UserError, match=r"config\.yaml: it would be ignored, .* make it a recipe"):
        validate_option_names([tmp_path])
