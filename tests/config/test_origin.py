"""The file that set a key is found, whatever its header."""

import pytest

from toplora_train.config.locate import OptionFile
from toplora_train.config.origin import find_choice, find_origin


@pytest.fixture
def files(tmp_path):
    texts = {
        "recipe": "# @package _global_\n# words\ntrainer:\n  max_stesp: 4\n  keep: 1\n",
        "trainer": "# words\nkeep: 2\nloud: true\n",
        "task": "# @package task.mine\nsorce: x\n",
        "other": "# @package _global_.trainer\nquiet: ${nowhere}\n",
    }
    found = []
    for group, text in texts.items():
        path = tmp_path / f"{group}.yaml"
        path.write_text(text)
        found.append(OptionFile(group, "mine", path))
    return found


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("trainer.max_stesp", "recipe"),
        ("trainer.keep", "recipe"),  # both have it, and the recipe wins
        ("trainer.loud", "trainer"),
        ("task.mine.sorce", "task"),
        ("trainer.quiet", "other"),
    ],
)
def test_the_file_that_set_the_key_is_found(files, key, group):
    found = find_origin(key, files)
    assert found is not None
    assert found.stem == group


@pytest.mark.parametrize("key", ["trainer", "max_stesp", "task.other.sorce", "trainer.keep.inner"])
def test_a_key_that_no_file_sets_has_no_origin(files, key):
    found = find_origin(key, [file for file in files if file.group != "recipe"])
    assert found is None


@pytest.mark.parametrize(
    ("group", "option", "is_found"),
    [
        ("model", "tiny", True),
        ("task", "piqa", True),
        ("dataset", "mine", True),
        ("model", "large", False),
        ("adapter", "tiny", False),
    ],
)
def test_the_file_that_chose_an_option_is_found(tmp_path, group, option, is_found):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# @package _global_\ndefaults:\n  - base\n  - override /model: tiny\n"
        "  - override /task@_global_.task: [boolq, piqa]\n  - dataset: mine\n"
    )
    found = find_choice(group, option, [OptionFile("recipe", "mine", path)])
    assert found == (path if is_found else None)
