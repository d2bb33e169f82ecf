import pytest

from toplora_train.report import numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (8.26, "8.3 s"),
        (59.4, "59 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_a_duration_is_readable(seconds, text):
    assert numbers.readable_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (2048, "2 KiB"),
        (5 * 2**20, "5 MiB"),
        (1.5 * 2**30, "1.5 GiB"),
        (139 * 2**30, "139.0 GiB"),
    ],
)
def test_memory_has_a_suitable_unit(size, text):
    assert numbers.memory(size) == text


def test_fractions_are_formatted_as_percent():
    assert numbers.percent(0.64) == "64.0 %"
    assert numbers.percent_interval((0.591, 0.6864)) == "59.1 to 68.6"
    assert numbers.points(0.52) == "+52.0"
    assert numbers.points(-0.015) == "-1.5"
    assert numbers.count(1234567) == "1,234,567"


def test_a_count_of_one_is_singular():
    assert numbers.counted(1, "step") == "1 step"
    assert numbers.counted(0, "step") == "0 steps"
    assert numbers.counted(1200, "entry", "entries") == "1,200 entries"


def test_a_correlation_with_a_constant_is_undefined():
    one = {"value": 0.0, "ci95": [0.0, 0.0]}
    assert numbers.score(0.0, (0.0, 0.0), "pearson") == "undefined"
    assert (numbers.score_value(one, "pearson"), numbers.score_interval(one, "pearson")) == (
        "undefined",
        "",
    )
    assert numbers.any_undefined({"tasks": {"stsb": one | {"metric": "pearson"}}})


def test_an_accuracy_of_zero_and_a_correlation_near_zero_are_scores():
    assert numbers.score(0.0, (0.0, 0.194), "accuracy") == "0.0 % (0.0 to 19.4)"
    assert numbers.score(0.0, (0.0, 0.0), "f1") == "0.0 % (0.0 to 0.0)"
    assert numbers.score(0.0, (-0.1, 0.1), "pearson") == "0.0 % (-10.0 to 10.0)"
    assert not numbers.any_undefined({"tasks": {}})


@pytest.mark.parametrize(
    ("value", "text"), [(1e-3, "1e-3"), (2.5e-4, "2.5e-4"), (0.05, "5e-2"), (1.0, "1e0")]
)
def test_a_learning_rate_is_written_as_it_is_typed(value, text):
    assert numbers.rate(value) == text
    assert float(text) == value


def test_only_long_words_are_shortened_and_keep_both_ends():
    assert numbers.shortened("lora optimizer.lr=0.001") == "lora optimizer.lr=0.001"
    shown = numbers.shortened("dora " + "a" * 40 + "z", 12)
    assert shown == "dora aaaaaaa\N{HORIZONTAL ELLIPSIS}aaaz"
    assert len(shown) == len("dora ") + 12
