"""Which level sets which key, with the real files and command line."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.levels import levels, typed_keys, validate_complete
from toplora_train.config.locate import options


def test_the_command_line_is_first_and_a_files_keys_follow_its_header():
    files = [options("recipe")["smoke"], options("task")["cola"], options("model")["tiny"]]
    typed, recipe, task, model = levels(files, ["seed=2", "+trainer={keep: 3}", "adapter=lora"])
    assert typed.keys == {"seed": 2, "trainer.keep": 3}
    assert recipe.keys["trainer.max_steps"] == 8
    assert task.keys["task.cola.kind"] == "classify"
    assert model.keys == {"model.name": "tiny", "model.builtin": "tiny"}


def test_null_does_not_count_as_typed():
    found = levels([], ["trainer.max_steps=null", "trainer.epochs=2"])
    assert typed_keys(found) == {"trainer.epochs"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapter=[lora,dora]"], "a run has one adapter; .*-m adapter=lora,dora"),
        (["recipe=[smoke]"], "a run has one recipe"),
        (["adapter=lora", "adapter=dora"], "adapter is given twice: 'lora' and 'dora'"),
        (["seed=1", "seed=2"], "seed is given twice: 1 and 2"),
    ],
)
def test_two_values_for_one_setting_are_rejected(words, message):
    with pytest.raises(UserError, match=message):
        levels([], words)


def test_a_repeated_value_and_a_list_of_tasks_are_accepted():
    assert levels([], ["seed=1", "seed=1", "task=[cola]"])[0].keys == {"seed": 1}


@pytest.fixture
def own(tmp_path):
    def write(text: str):
        (tmp_path / "recipe").mkdir()
        (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\n" + text)
        return ["recipe=mine", "--config-dir", str(tmp_path)]

    return write


def test_a_file_that_chooses_two_options_of_one_group_is_rejected(refused, own):
    line = refused(*own("defaults:\n  - override /adapter: [lora, dora]\n"))
    assert "recipe/mine.yaml: adapter=[lora,dora] is a list" in line


def test_a_mandatory_value_is_not_taken_from_the_defaults(refused, own):
    words = own("seed: ???\n")
    assert refused(*words).endswith("recipe/mine.yaml: seed is not set; give seed=...")
    validate_complete(levels([options("recipe", [])["smoke"]], ["seed=3"]))


def test_a_mandatory_value_can_be_typed(composed, own):
    assert composed(*own("seed: ???\n"), "seed=3")["seed"] == 3
