"""What the recipes say was published, and that all they name can be had."""

import re
import sys
from pathlib import Path, PurePath

import pytest
import yaml
from omegaconf import OmegaConf

from toplora_train import cli
from toplora_train.config.by_task import register_by_task
from toplora_train.config.compose import load_yaml
from toplora_train.config.locate import options
from toplora_train.data.availability import BUNDLED, HUB_ID
from toplora_train.data.llm_adapters import known_files

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RECIPES = options("recipe")
EXPECTED = [
    (name, one)
    for name, recipe in RECIPES.items()
    for one in OmegaConf.to_container(load_yaml(recipe.path)).get("expected", [])
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_its_command_and_says_what_it_reproduces(name):
    text = RECIPES[name].path.read_text()
    assert f"toplora-train recipe={name}" in text
    assert "Reproduces" in text


@pytest.mark.parametrize("one", [one for _, one in EXPECTED if {"scores", "average"} <= one.keys()])
def test_published_scores_have_the_published_mean(one):
    """To a rounding of each: a slip of the pen in any number would show."""
    mean = sum(one["scores"].values()) / len(one["scores"])
    assert mean == pytest.approx(one["average"], abs=0.1001)


@pytest.mark.parametrize(("name", "one"), EXPECTED)
def test_published_scores_are_of_the_recipes_tasks_and_name_their_source(name, one):
    recipe = load_yaml(RECIPES[name].path)
    tasks = [entry["override /task"] for entry in recipe.defaults if "override /task" in entry]
    # A GLUE recipe takes one task at a time, and holds every task's number.
    asked = set(options("task")) if name.endswith("_glue") else set(tasks[0])
    assert set(one.get("scores", {})) <= asked
    assert "arXiv" in one["source"]
    assert one["protocol"].startswith("legacy.") or name.endswith("_glue")


def test_there_are_published_numbers_to_hold_ours_against():
    assert {name for name, _ in EXPECTED} == {
        "llama2_commonsense",
        "llama3_commonsense",
        "gemma_commonsense",
        "gemma_math",
        "llama3_math",
        "roberta_base_glue",
    }


def refuse_what_cannot_be_had(source, revision):
    """Bundled, in the table of git blob ids, written by a benchmark, or on the hub, pinned."""
    form, _, name = source.partition(":")
    if source.startswith("./"):
        assert (BENCHMARKS / f"{PurePath(source).parts[0]}.py").is_file()
    elif form == "bundled":
        assert (BUNDLED / name).is_file()
    elif form == "llm-adapters":
        assert name in known_files()
    else:
        assert HUB_ID.fullmatch(source)
        assert re.fullmatch("[0-9a-f]{40}", revision or ""), f"{source} is not pinned"


@pytest.mark.parametrize("word", ["recipe", "dataset"])
def test_every_one_composes_with_the_users_adapter_and_its_sources_can_be_had_by_everyone(
    word, monkeypatch, capsys
):
    monkeypatch.delenv("TOPLORA_LLM_ADAPTERS_TABLE", raising=False)
    adapters = [*options("adapter")]
    assert word == "dataset" or len(options(word)) >= len(adapters)  # each adapter with a recipe
    for index, name in enumerate(options(word)):
        adapter = adapters[index % len(adapters)]
        own = name == "vit_base_images" or (
            word == "dataset" and load_yaml(options(word)[name].path).train is None
        )
        train = ["dataset.train=bundled:arithmetic/train.jsonl"] if own else []
        words = ["toplora-train", f"{word}={name}", f"adapter={adapter}", *train]
        monkeypatch.setattr(sys, "argv", [*words, "--cfg", "job"])
        assert cli.main() == 0, capsys.readouterr().err
        composed = yaml.safe_load(capsys.readouterr().out)
        assert composed["adapter"]["name"] == adapter
        assert word == "recipe" or composed[word]["name"] == name
        dataset, tasks = composed["dataset"], composed["task"].values()
        train = dataset["train"]
        for source in [*(train if isinstance(train, list) else [train]), dataset["test"]]:
            # task:SPLIT is another split of the tasks' own source.
            if source is not None and not source.startswith("task:"):
                refuse_what_cannot_be_had(source, dataset["revision"])
        for task in tasks:
            refuse_what_cannot_be_had(task["source"], task.get("revision"))


@pytest.mark.parametrize("name", options("task"))
def test_the_source_of_every_task_can_be_had_too(name, monkeypatch):
    monkeypatch.delenv("TOPLORA_LLM_ADAPTERS_TABLE", raising=False)
    task = load_yaml(options("task")[name].path)
    refuse_what_cannot_be_had(task.source, task.get("revision"))


# The authors' own scripts: rows per device times devices, learning rate, epochs, length.
PUBLISHED = {
    "roberta_base_glue": {
        "mnli_matched": (16, 8, 5e-4, 30, 512),
        "sst2": (16, 8, 5e-4, 60, 512),
        "mrpc": (16, 8, 4e-4, 30, 512),
        "cola": (32, 2, 4e-4, 80, 512),
        "qnli": (32, 8, 4e-4, 25, 512),
        "qqp": (16, 8, 5e-4, 25, 512),
        "rte": (32, 8, 5e-4, 80, 512),
        "stsb": (16, 8, 4e-4, 40, 512),
    },
    "roberta_large_glue": {
        "mnli_matched": (4, 8, 3e-4, 10, 128),
        "sst2": (8, 8, 4e-4, 10, 512),
        "mrpc": (4, 8, 3e-4, 20, 512),
        "cola": (4, 8, 3e-4, 20, 128),
        "qnli": (4, 8, 2e-4, 10, 512),
        "qqp": (4, 8, 3e-4, 20, 512),
        "rte": (8, 8, 4e-4, 20, 512),
        "stsb": (4, 8, 3e-4, 10, 128),
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("task", PUBLISHED["roberta_base_glue"])
def test_a_glue_recipe_has_the_published_settings_of_each_task(name, task):
    register_by_task()
    rows, devices, lr, epochs, length = PUBLISHED[name][task]
    recipe = OmegaConf.merge(load_yaml(RECIPES[name].path), {"task": {task: {}}})
    assert recipe.trainer.micro_batch_size == rows
    assert recipe.trainer.batch_size == rows * devices
    assert (recipe.optimizer.lr, recipe.trainer.epochs) == (lr, epochs)
    assert recipe.dataset.max_length == length
    assert (recipe.optimizer.warmup_ratio, recipe.optimizer.weight_decay) == (0.06, 0.1)


def test_what_started_from_mnli_is_said_to_have():
    recipe = load_yaml(RECIPES["roberta_base_glue"].path)
    assert {
        task for one in recipe.expected if one.get("start") is not None for task in one.scores
    } == {"mrpc", "rte", "stsb"}
    for name in PUBLISHED:
        assert "adapter.start_from=RUN" in RECIPES[name].path.read_text()
