"""Option files and recipes are found in a checkout and in a wheel."""

import pytest

from toplora_train.config import locate


def test_a_checkout_has_its_options_beside_the_package(checkout):
    assert locate.conf_dir() == checkout / "conf"
    assert locate.recipes_dir() == checkout / "recipes"


def test_a_wheel_carries_its_options_inside_the_package(tmp_path, monkeypatch):
    for folder, file in (("_conf", "config.yaml"), ("_recipes", "smoke.yaml")):
        (tmp_path / "site" / "toplora_train" / folder).mkdir(parents=True)
        (tmp_path / "site" / "toplora_train" / folder / file).touch()
    monkeypatch.setattr(locate, "PACKAGE", tmp_path / "site" / "toplora_train")
    assert locate.conf_dir() == tmp_path / "site" / "toplora_train" / "_conf"
    assert locate.recipes_dir() == tmp_path / "site" / "toplora_train" / "_recipes"


def test_an_installation_without_options_is_reported_as_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "PACKAGE", tmp_path / "toplora_train")
    with pytest.raises(FileNotFoundError, match="installation is broken"):
        locate.conf_dir()


def test_the_users_options_are_added_to_the_packages(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\n# My own\n")
    recipes = locate.options("recipe", [tmp_path])
    assert {"smoke", "mine"} <= recipes.keys()
    assert locate.description(recipes["mine"].path) == "My own"


@pytest.mark.parametrize("group", locate.groups())
def test_every_option_file_begins_with_a_description(group):
    for option in locate.options(group).values():
        assert len(locate.description(option.path)) > 10, option.path


def test_paths_below_here_are_shown_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate.readable(tmp_path / "a" / "b.yaml") == "a/b.yaml"
    assert locate.readable(tmp_path.parent / "b.yaml") == str(tmp_path.parent / "b.yaml")
