"""The end of a sweep."""

import pytest

from toplora_train.study.summary import sweep_exit_code


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 2, 2], 2),
        ([0, 2, 1], 1),
        ([1], 1),
        ([0, 2, 130], 130),
        ([143, 1], 143),
    ],
)
def test_the_exit_code_of_a_sweep(codes, expected):
    assert sweep_exit_code(codes) == expected
