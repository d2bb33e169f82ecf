"""What the recipes say was published."""

import pytest
from omegaconf import OmegaConf

from toplora_train.config.compose import load_yaml
from toplora_train.config.locate import options

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
