import pytest

from toplora_train.config.template import columns, fill, fill_partly, over_fields, prompt_template


def test_a_template_is_used_verbatim_around_its_columns():
    text = fill(" Q: {question}\n{{x}} A:", {"question": "{1} + 1?"})
    assert text == " Q: {1} + 1?\n{x} A:"


def test_a_template_filled_in_two_steps_is_the_one_filled_in_one():
    template = "{a} {{b}} {instruction}"
    half = fill_partly(template, {"a": "{instruction}"})
    assert fill(half, {"instruction": "?"}) == "{instruction} {b} ?"


def test_templates_over_other_column_names_are_the_same_template():
    renamed = over_fields("Q: {question} {hint}", {"instruction": "question"})
    assert renamed == over_fields("Q: {instruction} {hint}", {"instruction": "question"})
    assert columns(renamed) == ("instruction", "hint")
    swapped = {"instruction": "input", "input": "instruction"}
    assert over_fields("{input}", swapped) == "{input}"  # the row's own field comes first


@pytest.mark.parametrize("wrong", [r"{question}\nAnswer:", r"{question}\n\n", r"\t{question}"])
def test_a_line_break_that_the_shell_did_not_expand_is_refused(wrong: str):
    with pytest.raises(
        ValueError, match=r"not the two characters \\[nt]; in a shell write \$'KEY="
    ):
        prompt_template(wrong)
    assert prompt_template("{question}\nAnswer:\t") == "{question}\nAnswer:\t"
    assert prompt_template(r"{question} as \text{{...}}") == r"{question} as \text{{...}}"


@pytest.mark.parametrize("wrong", ["no column", "", "{", "{a:3}", "{a!r}", "{}"])
def test_what_is_no_template_of_a_prompt_is_refused(wrong: str):
    with pytest.raises(ValueError, match="must be a string"):
        prompt_template(wrong)
