"""The demo's data: short arithmetic word problems, reproducible on every machine.

``python -m tests.data.arithmetic FOLDER`` writes ``train.jsonl`` and ``test.jsonl``, which
the package includes as ``bundled:arithmetic/...``. No test question occurs in the training set, and
no training question of the same template uses a test question's numbers, in any order.
"""

from __future__ import annotations

import argparse
import json
import operator
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

from toplora_train.data.shuffle import shuffled

TRAIN_ROWS = 3000
TEST_ROWS = 208
SEED = 2025
TEST_SHARE = 3  # one in three number combinations of a template is reserved for the test set

# fmt: off
NAMES = (
    "Ada", "Ali", "Amy", "Ben", "Bo", "Carl", "Chen", "Dan", "Eva", "Finn", "Grace", "Hana", "Ida",
    "Ivan", "Jack", "Jia", "Kim", "Leo", "Lina", "Maya", "Mia", "Nora", "Omar", "Owen", "Pia",
    "Raj", "Rosa", "Sam", "Tara", "Tom", "Uma", "Vera", "Will", "Yara", "Zoe",
)
THINGS = (
    "apples", "balls", "beads", "books", "buttons", "cards", "coins", "cups", "eggs", "flowers",
    "keys", "lemons", "marbles", "nuts", "pears", "pencils", "pens", "plums", "rocks", "seeds",
    "shells", "stamps", "stickers", "toys",
)
# fmt: on

Numbers = tuple[int, ...]
Problem = dict[str, str]

OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,  # only numbers that divide without remainder are drawn
}


@dataclass(frozen=True)
class Template:
    """A question, its operators from left to right, and all its possible numbers."""

    question: str
    signs: str
    numbers: Sequence[Numbers]


_SUMS = tuple(product(range(3, 50), range(3, 50)))
_DIFFERENCES = tuple((a, b) for a, b in product(range(5, 80), range(2, 50)) if a > b)
_PRODUCTS = tuple(product(range(2, 13), range(2, 10)))
_QUOTIENTS = tuple((a * b, b) for a, b in _PRODUCTS)
_SUM_LESS = tuple(product(range(5, 40), range(3, 30), range(2, 8)))
_PRODUCT_AND = tuple(product(range(2, 8), range(2, 10), range(2, 12)))
_PRODUCT_LESS = tuple((a, b, c) for a, b, c in _PRODUCT_AND if a * b > c)
_QUOTIENT_AND = tuple((a, b, c) for (a, b), c in product(_QUOTIENTS, range(2, 12)))

_HAVE = "How many {things} does {name} have"
_EACH = "{name} shares {0} {things} equally among {1} friends."
TEMPLATES = (
    Template("{name} has {0} {things} and buys {1} more. " + _HAVE + " now?", "+", _SUMS),
    Template(
        "{name} has {0} {things} and {other} has {1}. How many {things} do they have together?",
        "+",
        _SUMS,
    ),
    Template(
        "There are {0} {things} on {name}'s table and {1} on the floor. How many are there in all?",
        "+",
        _SUMS,
    ),
    Template(
        "{name} has {0} {things} and gives {1} to {other}. " + _HAVE + " left?", "-", _DIFFERENCES
    ),
    Template(
        "{name} has {0} {things} and {other} has {1}. How many more {things} does {name} have?",
        "-",
        _DIFFERENCES,
    ),
    Template(
        "{name}'s shop has {0} {things} and sells {1}. How many {things} are still in the shop?",
        "-",
        _DIFFERENCES,
    ),
    Template("{name} has {0} boxes with {1} {things} in each. " + _HAVE + "?", "*", _PRODUCTS),
    Template(
        "{name} buys {0} bags of {1} {things} each. How many {things} does {name} buy?",
        "*",
        _PRODUCTS,
    ),
    Template(
        "{name} finds {0} {things} every day. How many {things} does {name} find in {1} days?",
        "*",
        _PRODUCTS,
    ),
    Template(_EACH + " How many {things} does each friend get?", "/", _QUOTIENTS),
    Template(
        "{name} packs {0} {things} into boxes of {1}. How many boxes does {name} fill?",
        "/",
        _QUOTIENTS,
    ),
    Template(
        "{name} puts {0} {things} on {1} shelves, the same number on each. "
        "How many {things} are on one shelf?",
        "/",
        _QUOTIENTS,
    ),
    Template(
        "{name} has {0} {things}, buys {1} more and gives {2} to {other}. " + _HAVE + " left?",
        "+-",
        _SUM_LESS,
    ),
    Template(
        "{name} has {0} bags of {1} {things} each and finds {2} more. " + _HAVE + " now?",
        "*+",
        _PRODUCT_AND,
    ),
    Template(
        "{name} has {0} boxes with {1} {things} in each and loses {2}. " + _HAVE + " left?",
        "*-",
        _PRODUCT_LESS,
    ),
    Template(
        _EACH + " One of them, {other}, had {2} before. How many {things} does {other} have now?",
        "/+",
        _QUOTIENT_AND,
    ),
)


def generate(
    train_rows: int = TRAIN_ROWS, test_rows: int = TEST_ROWS, seed: int = SEED
) -> tuple[list[Problem], list[Problem]]:
    """The training and test problems, each with ``instruction``, ``output`` and ``answer``.

    Templates alternate; names, things and numbers are drawn at random. Deterministic in ``seed`` on
    every version of Python.
    """
    rng = random.Random(seed)
    parts = [_split(template, rng) for template in TEMPLATES]
    seen: set[str] = set()
    train = _draw(train_rows, [numbers for numbers, _ in parts], rng, seen)
    test = _draw(test_rows, [numbers for _, numbers in parts], rng, seen)
    return train, test


def write(folder: Path) -> None:
    """Write ``train.jsonl`` and ``test.jsonl`` of :func:`generate` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, problems in zip(("train", "test"), generate(), strict=True):
        lines = "".join(json.dumps(problem) + "\n" for problem in problems)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


def _split(template: Template, rng: random.Random) -> tuple[list[Numbers], list[Numbers]]:
    """Split a template's numbers into training and test, disjoint in any order."""
    unordered = shuffled(sorted({tuple(sorted(numbers)) for numbers in template.numbers}), rng)
    held_out = set(unordered[: len(unordered) // TEST_SHARE])
    train = [numbers for numbers in template.numbers if tuple(sorted(numbers)) not in held_out]
    test = [numbers for numbers in template.numbers if tuple(sorted(numbers)) in held_out]
    return train, test


def _draw(
    count: int, numbers: Sequence[Sequence[Numbers]], rng: random.Random, seen: set[str]
) -> list[Problem]:
    """Draw ``count`` problems whose questions are not in ``seen``, and add them to it.

    A template's numbers are reused only after all of them have been used.
    """
    supplies = [cycle(shuffled(choices, rng)) for choices in numbers]
    turns = cycle(zip(TEMPLATES, supplies, strict=True))
    problems: list[Problem] = []
    for template, supply in islice(turns, count):
        drawn = next(supply)
        problem = _problem(template, drawn, rng)
        while problem["instruction"] in seen:
            problem = _problem(template, drawn, rng)
        seen.add(problem["instruction"])
        problems.append(problem)
    return shuffled(problems, rng)


def _problem(template: Template, numbers: Numbers, rng: random.Random) -> Problem:
    name, other = shuffled(NAMES, rng)[:2]
    things = shuffled(THINGS, rng)[0]
    question = template.question.format(*numbers, name=name, other=other, things=things)
    equations, answer = _work(template.signs, numbers)
    return {
        "instruction": question,
        "output": f"{equations} The answer is {answer}.",
        "answer": str(answer),
    }


def _work(signs: str, numbers: Numbers) -> tuple[str, int]:
    """The equations from left to right, ``3 * 4 = 12. 12 + 5 = 17.``, and the final result."""
    value = numbers[0]
    equations = []
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = OPERATIONS[sign](value, number)
        equations.append(f"{value} {sign} {number} = {result}.")
        value = result
    return " ".join(equations), value


def main() -> None:
    """Write the rows to the folder given on the command line."""
    parser = argparse.ArgumentParser(description="Write the demo's arithmetic rows.")
    parser.add_argument("folder", type=Path, help="folder for train.jsonl and test.jsonl")
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
