"""The validation of single settings: valid values pass, messages start with the key."""

import pytest

from toplora_train.adapters import checks


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (checks.check_positive_integer, [1, 64], [0, -1, 1.0, "1", None, True]),
        (checks.check_positive_number, [1, 0.5], [0, -1, float("inf"), float("nan"), "1", False]),
        (checks.check_probability, [0, 0.0, 0.99], [1, -0.1, "0", None, True, float("nan")]),
        (checks.check_boolean, [True, False], [0, 1, "true", None]),
        (checks.check_names, [None, ["a"], {"a"}, "a.*"], [[], "", "(", [1], [""], 3]),
        (checks.check_layers, [None, 0, [0, 3]], [[], -1, [-1], "0", [True], 1.5]),
    ],
)
def test_a_setting_passes_or_is_refused_by_its_key(check, good: list, bad: list):
    for value in good:
        check("key", value)
    for value in bad:
        with pytest.raises((TypeError, ValueError), match=r"^key "):
            check("key", value)


def test_a_choice_must_be_one_of_the_options():
    checks.check_choice("key", "b", ("a", "b"))
    for value in ("c", None, 1):
        with pytest.raises(ValueError, match=f"^key must be one of a, b, not {value!r}$"):
            checks.check_choice("key", value, ("a", "b"))


def test_names_may_have_to_be_a_list():
    with pytest.raises(TypeError, match=r"^key must be a list of module names, not 'head'$"):
        checks.check_names("key", "head", regex=False)


def test_patterns_map_names_to_positive_values_of_their_kind():
    checks.check_pattern("key", {"q": 2, "k": 4}, integer=True)
    checks.check_pattern("key", {"q": 0.5}, integer=False)
    for pattern, integer in (({"q": 0.5}, True), ({"q": 0}, False), ({1: 1}, True), ([], True)):
        with pytest.raises((TypeError, ValueError), match=r"^key"):
            checks.check_pattern("key", pattern, integer=integer)


def test_an_unknown_key_lists_the_known_ones():
    checks.check_keys({"a": 1}, ("a", "b"))
    with pytest.raises(ValueError, match=r"^gate\.c is not a setting .* it has a, b$"):
        checks.check_keys({"c": 1}, ("b", "a"), prefix="gate.")
