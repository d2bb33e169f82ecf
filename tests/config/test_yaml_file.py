"""A YAML file of unknown origin is read within bounds."""

import pytest
from omegaconf import OmegaConf

from toplora_train.config.errors import UserError
from toplora_train.config.locate import conf_dir, recipes_dir
from toplora_train.config.yaml_file import option_values, read_yaml


def test_the_packages_own_files_are_read_as_hydra_reads_them():
    files = [*conf_dir().rglob("*.yaml"), *recipes_dir().glob("*.yaml")]
    assert len(files) > 50
    for path in files:
        expected = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert repr(option_values(path)) == repr(expected), path


def test_a_file_is_read_again_after_it_has_changed(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("lr: 1e-4\n")
    option_values(path)["lr"] = "what a caller does to its copy"
    assert option_values(path) == {"lr": 1e-4}
    path.write_text("lr: 1e-4\nr: 8\n")
    assert option_values(path) == {"lr": 1e-4, "r": 8}


def test_yaml_that_expands_without_bounds_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    lines = ["a: &a [x, x]"]
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]")
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="aliases expand"):
        read_yaml(path)


def test_an_alias_that_stays_small_is_valid(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(path) == "a: &a [1, 2]\nb: *a\n"


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 20_000])
def test_yaml_without_an_end_is_refused(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="nested too deep, or contains itself"):
        read_yaml(path)


def test_invalid_yaml_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\nb: [\n")
    with pytest.raises(UserError, match=r"a\.yaml, line 3: not valid YAML"):
        read_yaml(path)
