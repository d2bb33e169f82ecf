"""One gate for names that become part of a path."""

import pytest

from tests.config.example import run_config, values
from toplora_train.config.check import check
from toplora_train.config.errors import UserError
from toplora_train.config.names import LONGEST, plain_name
from toplora_train.config.resolved import read_config, write_config

ESCAPES = ["../../x", "/abs/x", "..", ".", ".hidden", "", " ", "a/b", "a\\b", "a\nb", "\x1b[2J"]


@pytest.mark.parametrize("name", ["gsm8k", "test", "arc-easy", "größe", "a b", "x" * LONGEST])
def test_a_plain_name_is_returned(name):
    assert plain_name(name) == name


@pytest.mark.parametrize("name", [*ESCAPES, "x" * (LONGEST + 1)])
def test_a_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(ValueError, match="must be a plain name"):
        plain_name(name)


@pytest.mark.parametrize("name", ["../../x", "/abs/x"])
def test_a_tasks_name_is_checked_on_writing_as_on_reading(tmp_path, name):
    task = {name: {"name": name, "source": "rows.json"}}
    with pytest.raises(UserError, match="must be a plain name"):
        check(values(task=task))
    path = tmp_path / "config.yaml"
    write_config(run_config(), path)
    for place in ("boolq:", "name: boolq"):
        text = path.read_text()
        path.write_text(text.replace(place, place.replace("boolq", name)))
        with pytest.raises(UserError, match=r"config\.yaml: .*must be a plain name"):
            read_config(path)
        path.write_text(text)
