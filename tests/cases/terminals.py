"""Standard output that is closed, full, ASCII or a terminal, and text that a terminal obeys."""

from __future__ import annotations

from tests.cases.case import Case, both, copied, written

SMALL = (
    "recipe=smoke",
    "adapter=lora",
    "trainer.max_steps=1",
    "evaluation.limit=1",
    "evaluation.base=false",
)
ROWS = '{"instruction": "%s", "output": "b", "answer": "b"}\n'
ESCAPES = "\\u001b]0;title\\u0007\\u001b[31m\\u009b2J[/red][bold]$x$<script>\\u202e"
OUTPUTS = ("closed", "full", "ascii", "pty")


def trained(name: str, *words: str, output: str = "file", code: int = 0, line: str = "") -> Case:
    """A small run to its end."""
    return Case(f"terminal: {name}", "train", (*SMALL, *words), line, code=code, output=output)


CASES = (
    *(trained(f"training, {output} output", "output_dir=run", output=output) for output in OUTPUTS),
    *(
        Case(
            f"terminal: a refusal, {output} output",
            "train",
            ("recipe=smoke", "seed=x"),
            "seed",
            output=output,
        )
        for output in OUTPUTS
    ),
    *(
        Case(
            f"terminal: a report, {output} output",
            "report",
            ("run",),
            "",
            copied("run"),
            0,
            output=output,
        )
        for output in OUTPUTS
    ),
    *(
        trained(
            f"a path with {name}",
            f"output_dir='{path}'",
            line=path,
        )
        for name, path in (
            ("[/red]", "run[/red]"),
            ("[bold]", "run[bold]x"),
            ("spaces", "my run"),
            ("letters beyond ASCII", "run-äöü"),
        )
    ),
    Case(
        "terminal: rows with escape sequences",
        "train",
        (
            *SMALL,
            "dataset=jsonl",
            "dataset.train=rows.jsonl",
            "dataset.test=rows.jsonl",
            "dataset.max_overlap=1",
            "output_dir=run",
        ),
        "",
        written("rows.jsonl", "".join(ROWS % f"{n} {ESCAPES}" for n in range(20))),
        0,
    ),
    Case(
        "terminal: an error about a file whose name has an escape sequence",
        "report",
        ("a\x1b]0;title\x07",),
        "\\x1b]0;title",
    ),
    Case(
        "terminal: predictions with escape sequences, rescored",
        "eval",
        ("run=run", "rescore=clean"),
        "arithmetic.jsonl",
        both(copied("run"), written("run/predictions/arithmetic.jsonl", '{"\\u001b[2J": 1}\n')),
    ),
)
