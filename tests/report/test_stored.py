"""What a stored report may hold."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from toplora_train.report.stored import Finite, Interval, Measured, Positive, Share, Whole


def read(kind, text: str):
    return TypeAdapter(kind).validate_json(text, strict=True)


def test_null_is_nan_where_a_measurement_may_be_undefined():
    assert read(Measured, "null") != read(Measured, "null")
    assert read(Interval, "[null, 0.5]")[1] == 0.5


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Measured, "0.1"),
        (Finite, None),
        (Share, 1.5),
        (Share, -2),
        (Whole, -1),
        (Whole, 2**63),
        (Whole, 1.5),
        (Positive, 0),
    ],
)
def test_other_values_are_refused(kind, value):
    with pytest.raises(ValidationError):
        read(kind, json.dumps(value))
