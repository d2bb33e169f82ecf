from fractions import Fraction

import pytest

from toplora_train.evaluation.numbers import find_numbers, parse_number, same_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("-3", -3),
        ("\N{MINUS SIGN}7", -7),
        ("$1,234.50", Fraction("1234.5")),
        ("-$5", -5),
        ("$-5", -5),
        ("Rs.500", 500),
        ("1,234,567", 1234567),
        (".5", Fraction(1, 2)),
        ("2/3", Fraction(2, 3)),
        ("-1 1/2", Fraction(-3, 2)),
        (r"\frac{2}{3}", Fraction(2, 3)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"1\dfrac{1}{2}", Fraction(3, 2)),
        (r"x\frac{1}{2}", Fraction(1, 2)),
        ("1{,}234", 1234),
        (r"12\,345{,}678.5", Fraction("12345678.5")),
        (r"\boxed{42}", 42),
        ("**5**.", 5),
        ("6.02e23", 602 * 10**21),
        ("5/0", 5),
    ],
)
def test_numbers_are_parsed_as_people_write_them(text, value):
    assert parse_number(text).value == value


@pytest.mark.parametrize("text", ["20%", "20 %", r"20\%", "20 percent", "20 per cent"])
def test_every_spelling_of_percent_is_parsed(text):
    number = parse_number(text)
    assert (number.value, number.percent) == (20, True)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("10-5", [10, 5]),
        ("10 - 5 = 5", [10, 5, 5]),
        ("(3)-2", [3, 2]),
        ("from 2020-2021", [2020, 2021]),
        ("at -5 degrees", [-5]),
        (r"10-\frac{1}{2}", [10, Fraction(1, 2)]),
        ("1,2", [1, 2]),
        (r"1\,23", [1, 23]),
        ("12,34", [12, 34]),
        ("x2 + 3", [3]),
        ("answer3", []),
        ("no digits", []),
    ],
)
def test_signs_commas_and_names_are_distinguished_from_numbers(text, values):
    assert [number.value for number in find_numbers(text)] == values


def test_a_found_number_parses_to_itself():
    text = "$1,234.50 of -3 is 2/3, 1 1/2, 20 percent and .5"
    found = find_numbers(text)
    assert [parse_number(number.text) for number in found] == found
    assert len(found) == 6


def test_a_text_with_two_numbers_is_not_one_number():
    assert parse_number("3 or 4") is None
    assert parse_number("none") is None


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("8", "8.0"),
        ("0.67", "0.6666666666666666"),
        ("2/3", "0.6666666666666666"),
        ("33.33", "33.333333333333336"),
        ("9.3", "9.299999999999999"),
        ("0.13", "0.125"),
        ("20%", "20"),
        ("20%", "0.2"),
        ("66.67%", "2/3"),
        ("1,000", "1000.0"),
        ("1.25e-3", "0.00125"),
        ("6.02e23", "602000000000000000000000"),
        ("0", "-0.0"),
    ],
)
def test_two_ways_to_write_an_answer_are_the_same(left, right):
    assert same_number(parse_number(left), parse_number(right))
    assert same_number(parse_number(right), parse_number(left))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("0.7", "0.6666666666666666"),
        ("0.66", "0.6666666666666666"),
        ("9", "9.3"),
        ("8", "-8"),
        ("20", "0.2"),
        ("20%", "2"),
        ("20%", "21%"),
        ("100", "101"),
        ("1/3", "0.3"),
        ("12.5", "12.54"),
        ("6.63e-34", "1.60e-19"),
        ("6.63e-34", "0"),
        ("1.25e-3", "4.99e-3"),
        ("3e-7", "9e-7"),
    ],
)
def test_different_numbers_stay_different(left, right):
    assert not same_number(parse_number(left), parse_number(right))
    assert not same_number(parse_number(right), parse_number(left))
