import pytest

from toplora_train.config.methods import (
    HEADS,
    format_name,
    format_names,
    language_method,
    language_methods,
    method_name,
    method_names,
)


def test_the_methods_are_the_modules_of_their_folder():
    assert method_names()[0] == "generate"
    assert {"choose", "cloze", *HEADS} <= set(method_names())
    assert "base" not in method_names()


def test_a_head_is_not_a_multiple_choice_method():
    assert set(method_names()) - set(language_methods()) == set(HEADS)
    with pytest.raises(ValueError, match=f"{', '.join(language_methods())}"):
        language_method("classify")


def test_an_unknown_method_is_rejected_with_the_known_ones():
    assert method_name("regress") == "regress"
    with pytest.raises(ValueError, match=r"must be one of generate, choose, "):
        method_name("guess")


def test_the_formats_are_the_modules_of_their_folder():
    assert {"completion", "gsm8k", "sharegpt"} == {*format_names()}
    with pytest.raises(ValueError, match="must be one of completion, gsm8k, sharegpt"):
        format_name("alpaca")
