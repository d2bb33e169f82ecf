"""``key=value`` arguments: known keys, each at most once, with clear errors."""

import pytest

from toplora_train.config.arguments import Key, parse_arguments, parse_list, show_usage
from toplora_train.config.errors import UserError

KEYS = (
    Key("run", "the run directory", required=True),
    Key("format", "what is written", required=True, choices=("lora", "merged")),
    Key("output", "where it is written"),
)


def parse(*words: str) -> dict[str, str]:
    return parse_arguments(words, KEYS, command="toplora-export")


def test_a_value_may_contain_an_equals_sign():
    assert parse("format=lora", "run=runs/0-r=4") == {"format": "lora", "run": "runs/0-r=4"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["runs/a"], "'runs/a' is not KEY=VALUE; toplora-export takes run=, format=, output="),
        (["--run", "a"], "'--run' is not KEY=VALUE"),
        (["rnu=a"], "unknown key 'rnu'; did you mean 'run'?"),
        (["run=a", "run=b"], "run is given twice: a and b"),
        (["run="], "run must be a value, not ''"),
        (["run=a", "format=gguf"], "format must be one of lora, merged, not 'gguf'"),
        (["run=a"], "format is not given: format=lora|merged, what is written"),
    ],
)
def test_an_error_is_one_line(words: list[str], complaint: str):
    with pytest.raises(UserError) as refusal:
        parse(*words)
    assert str(refusal.value).startswith(complaint)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["[a,b]", "a,b", "[a, b]"])
def test_a_list_may_have_brackets(text: str):
    assert parse_list(text) == ["a", "b"]


def test_the_help_shows_every_key_and_which_ones_are_optional():
    text = show_usage("toplora-export", "Write it.", KEYS)
    assert "usage: toplora-export run=RUN format=lora|merged [output=OUTPUT]" in text
    assert all(key.meaning in text for key in KEYS)
