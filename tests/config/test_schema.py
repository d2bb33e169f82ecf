"""The bounds of the schema."""

import pytest
from pydantic import TypeAdapter, ValidationError

from toplora_train.config.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (PositiveInt, [1, "2"], [0, -1, 1.5, "x", True, None]),
        (NonNegativeInt, [0, 3], [-1, False]),
        (PositiveFloat, [1, 1e-9, "1e-4"], [0, -1.0, float("nan"), float("inf"), True]),
        (Fraction, [0, 0.999], [1, -0.1, float("nan"), True]),
    ],
)
def test_a_number_is_within_its_bounds_and_no_truth_value(kind, good, bad):
    adapter = TypeAdapter(kind)
    for value in good:
        assert adapter.validate_python(value) == float(value)
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)
