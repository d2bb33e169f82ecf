"""Whatever a file holds, reading it gives its content or one line that names it."""

import json
import os
from dataclasses import dataclass

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.reading import DEPTH, parse_json, read_bytes, read_json, validate


@dataclass
class Example:
    name: str
    sizes: tuple[int, int]


def nested(depth):
    return "[" * depth + "]" * depth


def test_json_as_deep_as_allowed_is_read_and_one_level_more_is_refused():
    assert parse_json(nested(DEPTH)) == json.loads(nested(DEPTH))
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        parse_json(nested(DEPTH + 1))


def test_brackets_within_text_are_not_depth():
    assert parse_json(json.dumps({"a": "[" * 1000})) == {"a": "[" * 1000}


def test_a_key_that_occurs_twice_is_refused_at_any_level():
    with pytest.raises(ValueError, match="the key 'b' occurs twice"):
        parse_json('{"a": [{"b": 1, "c": 2, "b": 1}]}')


def test_a_file_above_the_limit_is_refused_unread(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(3 * 2**20)
    with pytest.raises(UserError, match="larger than the 2 MiB that such a file may have"):
        read_bytes(tmp_path / "large", limit=2 * 2**20)


@pytest.mark.parametrize("name", ["none", "nul\0l", "x" * 300])
def test_a_name_without_a_file_is_one_line(tmp_path, name):
    with pytest.raises(UserError, match=r"no such file|cannot be read"):
        read_bytes(tmp_path / name)


def test_pipes_devices_and_folders_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match=r"cannot be read \(it is a (folder|pipe)"):
            read_bytes(path)


def test_a_json_document_is_an_object(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match=r"a\.json: must be a JSON object, not list"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"sizes": [1, 2]}, "place: no 'name'"),
        ({"name": 1, "sizes": [1, 2]}, "place: 'name' must be a string"),
        ({"name": "x", "sizes": [1, True]}, r"place: 'sizes\.1' must be an integer"),
        ("text", "place: must be a mapping"),
    ],
)
def test_a_value_of_another_schema_names_the_key(value, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        validate(Example, value, "place")


def test_a_value_of_the_schema_is_an_instance():
    assert validate(Example, {"name": "x", "sizes": [1, 2]}, "") == Example("x", (1, 2))
