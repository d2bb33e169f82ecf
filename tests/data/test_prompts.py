"""The prompt, byte for byte."""

from toplora_train.data.prompts import PROMPT_VERSION, build_prompt


def test_the_prompt_without_input_is_this_text():
    assert build_prompt("Add 1 and 2.") == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n"
        "\n"
        "### Instruction:\n"
        "Add 1 and 2.\n"
        "\n"
        "### Response:\n"
    )


def test_the_prompt_with_input_is_this_text():
    assert build_prompt("Add.", "1 and 2") == (
        "Below is an instruction that describes a task, "
        "paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n"
        "\n"
        "### Instruction:\n"
        "Add.\n"
        "\n"
        "### Input:\n"
        "1 and 2\n"
        "\n"
        "### Response:\n"
    )


def test_the_version_is_that_of_these_texts():
    assert PROMPT_VERSION == 1  # raise it with every change to the texts above


def test_white_space_around_the_parts_is_removed_and_inside_it_is_kept():
    assert build_prompt(" a\n\n  b \n", "\tc  d ") == build_prompt("a\n\n  b", "c  d")
    assert "a\n\n  b\n\n### Input:\nc  d\n\n" in build_prompt("a\n\n  b", "c  d")


def test_an_input_of_white_space_is_no_input():
    assert build_prompt("a", " \n ") == build_prompt("a")


def test_braces_in_a_question_are_text():
    assert "{x} %s {0}" in build_prompt("{x} %s {0}")
