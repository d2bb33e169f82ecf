"""Option files from outside configure the run only, and end."""

import os

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.outside import validate_outside


@pytest.fixture
def own(tmp_path):
    def write(**files: str):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: evil.X\n",
        "# @package hydra.callbacks\nx:\n  _target_: evil.X\n",
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: joblib\n",
        "# @package _global_\ndefaults:\n  - /model@hydra.callbacks: tiny\n",
    ],
)
def test_a_recipe_from_outside_cannot_set_hydra(own, text):
    with pytest.raises(UserError, match=r"recipe/mine\.yaml: an option file must not set hydra"):
        validate_outside(own(recipe__mine=text))


def test_neither_can_a_file_that_a_recipe_includes(own):
    folder = own(
        recipe__mine="# @package _global_\ndefaults:\n  - /more: other\n",
        more__other="# @package _global_\nhydra: {}\n",
    )
    with pytest.raises(UserError, match=r"more/other\.yaml: an option file must not set hydra"):
        validate_outside(folder)


def test_neither_can_a_group_of_hydras_own(own):
    with pytest.raises(UserError, match="must not set hydra"):
        validate_outside(own(hydra__callbacks__mine="x: {_target_: evil.X}\n"))


def test_a_recipe_that_chooses_options_is_valid(own):
    text = "# @package _global_\ndefaults:\n  - override /model: tiny\n  - base\n"
    validate_outside(own(recipe__mine=text, recipe__base="# @package _global_\nseed: 2\n"))


@pytest.mark.parametrize("entry", ["mine", "/recipe/mine", "{/recipe: mine}", "other"])
def test_a_recipe_that_includes_itself_is_named(own, entry):
    folder = own(
        recipe__mine=f"# @package _global_\ndefaults:\n  - {entry}\n",
        recipe__other="# @package _global_\ndefaults:\n  - mine\n",
    )
    with pytest.raises(UserError, match="include the file itself"):
        validate_outside(folder)


def test_a_pipe_in_place_of_an_option_is_not_opened(tmp_path):
    (tmp_path / "recipe").mkdir()
    os.mkfifo(tmp_path / "recipe" / "mine.yaml")
    with pytest.raises(UserError, match="it is a pipe"):
        validate_outside(tmp_path)


def test_files_that_no_option_includes_are_not_read(own):
    validate_outside(own(docker__compose="a: b: c\n", other="hydra: {}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7\n", "must be a mapping of keys to values"),
        ("- seed\n", "must be a mapping of keys to values"),
        (f"seed: {'7' * 5000}\n", "not valid YAML"),
        ("seed: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("defaults: adapter\n", "defaults must be a list of options"),
        ("defaults:\n  - 7\n", "defaults must be a list of options"),
    ],
)
def test_what_hydra_would_end_with_a_traceback_is_one_line(own, text, message):
    with pytest.raises(UserError, match=rf"recipe/mine\.yaml: {message}"):
        validate_outside(own(recipe__mine=f"# @package _global_\n{text}"))
