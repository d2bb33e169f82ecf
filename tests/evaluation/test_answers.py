import json

import pytest

from toplora_train.config.errors import UserError
from toplora_train.evaluation.answers import EXTRACTIONS, Extraction, extract_answer, is_correct

LETTERS = tuple("ABCDE")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12 + 7 = 19. The answer is 19.", "19"),
        ("The answer is 5. No, the answer is 6, since 2 * 3 = 6 and not 7.", "6"),
        ("The answer is 3 + 4 = 7 apples, of 12.", "7"),
        ("The answer is 15, because 3 * 5 = 15 and 2 + 4 = 6.", "15"),
        ("the answer is 10 since 2x = 20", "10"),
        ("The answer is 15 (check: 20-15=5)", "15"),
        ("The answer is (3 + 4) = 7", "7"),
        ("The answer is, as shown, 1,234.", "1,234"),
        ("The answer is:\n\n$1,234.50 per day", "$1,234.50"),
        ("The answer is:\n42\nI checked it in 3 ways.", "42"),
        ("ANSWER: 42", "42"),
        ("It is 3, so the answer is clear. Then 4.", "4"),
        ("4 boxes of 6 make 24", "24"),
        ("#### 72", "72"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_a_number_follows_the_last_statement_or_is_the_last(text, answer):
    assert extract_answer(text, "number") == answer


@pytest.mark.parametrize(
    ("text", "choices", "answer"),
    [
        ("the correct answer is true", ("true", "false"), "true"),
        ("The correct answer is False.", ("true", "false"), "false"),
        ("the correct answer is answer2", ("answer1", "answer2", "answer12"), "answer2"),
        ("the correct answer is answer12", ("answer1", "answer2", "answer12"), "answer12"),
        ("The answer is (C).", LETTERS, "C"),
        ("The answer is a total of 12, option D", LETTERS, "D"),
        ("A man walks. The answer is B. Check: C is not.", LETTERS, "B"),
        ("The answer is A. Wait, the answer is E", LETTERS, "E"),
        ("The answer is 23.65 which is (A)", LETTERS, "A"),
        ("solution1", ("solution1", "solution2"), "solution1"),
        ("it is true, quite true", ("true", "false"), "true"),
        ("true or false", ("true", "false"), None),
        ("the correct answer is answer7", ("answer1", "answer2"), None),
        ("untrue", ("true", "false"), None),
        ("the correct answer is option2!", (), "option2"),
        ("yes", (), "yes"),
        ("well I think", (), None),
    ],
)
def test_a_choice_is_a_whole_word_among_the_options(text, choices, answer):
    assert extract_answer(text, "choice", choices) == answer


def test_exact_is_the_whole_output_with_white_space_normalised():
    assert extract_answer("  red \n  green ", "exact") == "red green"
    assert extract_answer(" \n", "exact") is None
    assert is_correct("red green", " red\tgreen\n", "exact")
    assert not is_correct("Red green", "red green", "exact")


@pytest.mark.parametrize("extraction", ["number", "choice", "exact"])
def test_text_after_the_next_instruction_header_is_ignored(extraction):
    text = "7\n\n### Instruction:\nWhat is 1 + 1?\n\n### Response:\nThe answer is 2."
    assert extract_answer(text, extraction) == "7"


def test_an_unknown_extraction_is_refused():
    with pytest.raises(UserError, match="no extraction letter; known: number, choice, exact"):
        extract_answer("1", "letter")


def test_correctness_depends_on_the_extraction():
    assert is_correct("$1,000", "1000.0", "number")
    assert not is_correct("999", "1000.0", "number")
    assert is_correct("True", "true", "choice")
    assert not is_correct("a", "A", "choice")
    assert not is_correct(None, "1", "number")
    assert not is_correct(None, "", "exact")


def read_task(shared_dir, name):
    path = shared_dir / "data" / "llm-adapters" / "dataset" / name / "test.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text(encoding="utf-8"))


def agreement(rows, extraction, choices=()):
    answers = [extract_answer(row["output"], extraction, choices) for row in rows]
    right = sum(
        is_correct(answer, row["answer"], extraction)
        for answer, row in zip(answers, rows, strict=True)
    )
    return right / len(rows), sum(answer is not None for answer in answers) / len(rows)


def test_aqua_rationales_agree_with_the_labels_as_often_as_a_reader_finds(shared_dir):
    # A model wrote the rationales; about half are correct. The reference pattern, which
    # takes the first letter A-E of any word, finds 42.9 %.
    right, _ = agreement(read_task(shared_dir, "AQuA"), "choice", LETTERS)
    assert right >= 0.48


@pytest.mark.parametrize("name", ["gsm8k", "SVAMP", "AddSub", "MultiArith"])
def test_nearly_every_worked_solution_gives_a_number(shared_dir, name):
    _, parsed = agreement(read_task(shared_dir, name), "number")
    assert parsed > 0.99


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("boolq", ("true", "false")),
        ("piqa", ("solution1", "solution2")),
        ("winogrande", ("option1", "option2")),
        ("ARC-Challenge", tuple(f"answer{i}" for i in range(1, 6))),
        ("social_i_qa", ()),
    ],
)
def test_every_gold_sentence_of_the_commonsense_sets_yields_its_answer(shared_dir, name, choices):
    assert agreement(read_task(shared_dir, name), "choice", choices) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (lambda text, _: text, r"must be an Extraction\(extract, same\), not <function"),
        (Extraction(lambda *_: 5), "must give a text or None, not 5"),
        (Extraction(lambda text: text), r"failed on 'a' \(TypeError: "),
        (Extraction(lambda text, _: text, lambda *_: None), "True or False, not None"),
        (Extraction(lambda text, _: text, lambda *_: 1 / 0), "failed on 'a' .ZeroDivision"),
    ],
)
def test_an_extraction_of_ones_own_that_does_not_work_is_named(monkeypatch, own, message):
    monkeypatch.setitem(EXTRACTIONS, "mine", own)
    with pytest.raises(UserError, match=f"extraction mine.*{message}"):
        is_correct(extract_answer("a", "mine"), "a", "mine")
