"""A YAML file of unknown origin is read within bounds."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.yaml_file import read_yaml


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
