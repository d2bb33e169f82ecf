"""The demo's data: correct answers, disjoint splits, reproducible everywhere."""

import json
import re
from collections import Counter
from fractions import Fraction

import pytest

from tests.data.arithmetic import TEMPLATES, TEST_ROWS, TRAIN_ROWS, generate, main
from toplora_train.data.availability import BUNDLED
from toplora_train.data.sources import read_rows

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)\.")


@pytest.fixture(scope="module")
def problems():
    return generate()


def template_and_numbers(question):
    """The template of a question, identified by its words, and its numbers, sorted."""
    for index, template in enumerate(TEMPLATES):
        pattern = re.escape(template.question)
        pattern = re.sub(r"\\{\d\\}", r"(\\d+)", pattern)
        pattern = re.sub(r"\\{(name|other)\\}", r"[A-Z][a-z]+", pattern)
        pattern = pattern.replace(r"\{things\}", r"[a-z]+")
        match = re.fullmatch(pattern, question)
        if match:
            return index, tuple(sorted(int(number) for number in match.groups()))
    raise AssertionError(f"no template fits {question!r}")


def test_the_bundled_files_match_the_commands_output(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["arithmetic", str(tmp_path / "new")])
    main()
    for name in ("train.jsonl", "test.jsonl"):
        written = (tmp_path / "new" / name).read_bytes()
        assert written == (BUNDLED / "arithmetic" / name).read_bytes()


def test_the_bundled_sources_have_the_documented_sizes():
    for split, count in (("train", 3000), ("test", 208)):
        found = read_rows(f"bundled:arithmetic/{split}.jsonl", needs_answer=True)
        assert len(found.rows) == count
        assert found.rows[0].id == f"{split}-1"


def test_every_equation_holds_and_the_last_result_is_the_answer(problems):
    for problem in [*problems[0], *problems[1]]:
        equations = EQUATION.findall(problem["output"])
        value = None
        for left, sign, right, result in equations:
            a, b = Fraction(left), Fraction(right)
            value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
            assert value == int(result), problem
        assert value == int(problem["answer"])
        worked = " ".join(f"{a} {sign} {b} = {c}." for a, sign, b, c in equations)
        assert problem["output"] == f"{worked} The answer is {problem['answer']}."


def test_the_equations_use_the_questions_numbers(problems):
    for problem in [*problems[0], *problems[1]]:
        equations = EQUATION.findall(problem["output"])
        used = [equations[0][0], *(right for _, _, right, _ in equations)]
        assert sorted(used) == sorted(re.findall(r"\d+", problem["instruction"]))


def test_questions_are_unique_within_and_across_splits(problems):
    questions = [problem["instruction"] for part in problems for problem in part]
    assert len(set(questions)) == len(questions) == TRAIN_ROWS + TEST_ROWS


def test_no_test_numbers_occur_in_training_with_the_same_template(problems):
    train, test = ({template_and_numbers(p["instruction"]) for p in part} for part in problems)
    assert not train & test


def test_templates_are_equally_frequent(problems):
    assert len(TEMPLATES) >= 12
    counts = Counter(template_and_numbers(p["instruction"])[0] for p in problems[1])
    assert set(counts.values()) == {TEST_ROWS // len(TEMPLATES)}


def test_results_are_small_varied_integers(problems):
    answers = [int(problem["answer"]) for problem in problems[0]]
    assert min(answers) >= 1
    assert sum(answer < 100 for answer in answers) > 0.95 * len(answers)
    assert max(Counter(problem["answer"] for problem in problems[1]).values()) < 0.1 * TEST_ROWS


def test_names_in_a_question_differ(problems):
    for problem in problems[0]:
        names = re.findall(r"[A-Z][a-z]+ (?:has|had) \d+|to [A-Z][a-z]+", problem["instruction"])
        people = [re.search("[A-Z][a-z]+", name).group() for name in names]
        assert len(set(people)) == len(people)


def test_seed_and_sizes_can_be_changed():
    train, test = generate(train_rows=20, test_rows=5, seed=1)
    assert (len(train), len(test)) == (20, 5)
    assert train != generate(train_rows=20, test_rows=5, seed=2)[0]
    assert json.dumps(train) == json.dumps(generate(train_rows=20, test_rows=5, seed=1)[0])
