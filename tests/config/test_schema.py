"""The schema's bounds, and its documentation."""

import re
from dataclasses import fields, is_dataclass

import pytest
from pydantic import TypeAdapter, ValidationError

from toplora_train.config import schema
from toplora_train.config.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

SETTINGS = [one for one in vars(schema).values() if isinstance(one, type) and is_dataclass(one)]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (PositiveInt, [1, "2"], [0, -1, 1.5, "x", True, None]),
        (NonNegativeInt, [0, 3], [-1, False]),
        (PositiveFloat, [1, 1e-9, "1e-4"], [0, -1.0, float("nan"), float("inf"), True]),
        (Fraction, [0, 0.999], [1, -0.1, float("nan"), True]),
    ],
)
def test_a_number_is_within_its_bounds_and_not_a_boolean(kind, good, bad):
    adapter = TypeAdapter(kind)
    for value in good:
        assert adapter.validate_python(value) == float(value)
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_key_is_documented_in_the_order_of_the_fields(settings):
    documented = re.findall(r"^ {8}(\w+): \S", settings.__doc__, flags=re.MULTILINE)
    assert documented == [field.name for field in fields(settings)]
