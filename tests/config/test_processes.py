"""A launcher's environment is whole, or refused in one line."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.processes import NEEDED, launched_processes, rank

WHOLE = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def given(monkeypatch):
    """Set a launcher's variables, and no others."""

    def set_all(**variables: str) -> None:
        for name in WHOLE:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def test_a_launcher_says_how_many_processes_there_are(given):
    given(**WHOLE)
    assert (launched_processes(), rank()) == (2, 1)
    given(WORLD_SIZE="1")
    assert (launched_processes(), rank()) == (1, 0)
    given()
    assert (launched_processes(), rank()) == (None, 0)


@pytest.mark.parametrize("value", ["", "abc", "0", "-1", "2.0"])
def test_a_world_size_that_is_no_number_is_named_with_the_remedy(given, value):
    given(**WHOLE | {"WORLD_SIZE": value})
    with pytest.raises(UserError, match=f"^WORLD_SIZE={value} .*not a number.*unset WORLD_SIZE"):
        launched_processes()


@pytest.mark.parametrize("name", NEEDED)
def test_processes_that_cannot_find_each_other_are_refused(given, name):
    given(**{key: value for key, value in WHOLE.items() if key != name})
    with pytest.raises(UserError, match=f"^WORLD_SIZE=2 is in the environment, but not {name};"):
        launched_processes()


def test_a_single_process_that_is_to_find_others_is_refused(given):
    given(WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    with pytest.raises(UserError, match="but not MASTER_ADDR, MASTER_PORT;"):
        launched_processes()


@pytest.mark.parametrize("value", ["2", "x"])
def test_a_rank_outside_the_processes_is_refused(given, value):
    given(**WHOLE | {"RANK": value})
    with pytest.raises(UserError, match=f"^RANK={value} is not one of WORLD_SIZE=2 processes"):
        launched_processes()
    assert rank() == (2 if value == "2" else 0)
