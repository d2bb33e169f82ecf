"""Failures: exit codes, and the wording of validation errors."""

import errno
import signal
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from toplora_train.config.errors import Interrupted, RunFailure, UserError, disk_error, requirement


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


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), UserError, "x: File name too"),
        (OSError(errno.ENOSPC, ""), RunFailure, "the disk is full: {} could not be written"),
        (OSError(errno.EROFS, "", "a"), RunFailure, "the disk is read-only: a could not be"),
        (FileNotFoundError(errno.ENOENT, ""), type(None), "None"),
        (ValueError(errno.ENOSPC), type(None), "None"),
    ],
)
def test_what_the_file_system_refuses_is_a_line(tmp_path, error, kind, line):
    found = disk_error(error, tmp_path)
    assert type(found) is kind
    assert str(found).startswith(line.format(tmp_path))
