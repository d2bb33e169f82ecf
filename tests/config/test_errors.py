"""Failures: exit codes, and the wording of validation errors."""

import errno
import signal
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from toplora_train.config.errors import Interrupted, path_too_long, requirement


def test_an_interruption_has_the_exit_code_that_shells_expect():
    assert Interrupted(signal.SIGINT).exit_code == 130
    assert Interrupted(signal.SIGTERM).exit_code == 143


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Annotated[int, Field(ge=1)], 0, "at least 1"),
        (int, "many", "an integer"),
        (bool, "perhaps", "true or false"),
        (Literal["a", "b"], "c", "one of a, b"),
        (tuple[int], [1, 2], "a list of at most 1"),
    ],
)
def test_pydantics_errors_are_worded_as_requirements(kind, value, words):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    assert requirement(caught.value.errors()[0]) == words


def test_a_path_that_is_too_long_is_the_users():
    error = OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300)
    assert str(path_too_long(error)) == f"{'x' * 300}: File name too long"
    assert path_too_long(OSError(errno.ENOSPC, "full")) is None
