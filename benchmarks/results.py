"""Fill in the tables of published results from the archived studies in docs/results.

    python benchmarks/results.py README.md docs/results.md

A table is a block of lines between `<!-- results: KIND STUDY... -->` and `<!-- end -->`. STUDY is
`docs/results/STUDY.json`, written by `toplora-report STUDY archive=STUDY.json`; several (`arith_*`,
or tasks of their own, `sst2+mrpc`) are compared as one. KIND is one of the functions of TABLES.
Methods are compared with LoRA, or with TopLoRA where the block begins with
`<!-- results against toplora: `. Everything but the blocks is written by hand.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.report import numbers
from toplora_train.report.archive import read_archive
from toplora_train.report.comparison import compare_runs, overall
from toplora_train.report.comparison_tables import learning_rate_table

STUDIES = Path(__file__).resolve().parents[1] / "docs" / "results"
PACKAGES = ("torch", "transformers", "peft")
BLOCK = re.compile(
    r"(<!-- results(?: against (?P<baseline>\S+))?: (?P<kind>\w+) (?P<studies>[\w*+ ]+) -->\n)"
    r".*?(?=<!-- end -->)",
    re.DOTALL,
)

MARKS = {"best": "**{}**", "within 1 SE": "*{}*"}

Document = dict[str, Any]


def study(name: str, baseline: str = "lora") -> Document:
    """The comparison of the methods with one; the studies' commands and where they were run."""
    paths = archives(name)
    read = [read_archive(path) for path in paths]
    runs = [run for one in read for run in one.runs]
    tuning = [run for one in read for run in one.tuning]
    machines = [machine(run.report["environment"]) for run in [*runs, *tuning]]
    ran = [
        json.loads(path.read_text(encoding="utf-8"))["commands"] or [one.runs[0].report["command"]]
        for path, one in zip(paths, read, strict=True)
    ]
    unfinished = [run for one in read for run in one.unfinished]
    found = compare_runs(runs, tuning=tuning, unfinished=unfinished, baseline=baseline)
    return found | {
        "commands": [command for of_one in ran for command in of_one],
        "reports": [run.report for run in runs],
        "machines": list(dict.fromkeys(machines)),
        "runs": len(runs),
        "tuning": len(tuning),
        "training": sum(run.report["train"]["seconds"] for run in [*runs, *tuning]),
    }


def archives(name: str) -> list[Path]:
    """The files of a study, or of several.

    Raises:
        UserError: There is none.
    """
    paths = []
    for one in name.split("+"):
        found = sorted(STUDIES.glob(f"{one}.json"))
        if not found:
            raise UserError(f"{STUDIES} has no {one}.json")
        paths += found
    return paths


def machine(where: Mapping[str, Any]) -> str:
    """What a run was computed on, and with which packages."""
    device = f"{where['cpu_count']} cores" if where["device"] == "cpu" else where["device"]
    packages = [f"{name} {where['packages'][name]}" for name in PACKAGES]
    return ", ".join([device, f"Python {where['python']}", *packages])


def scores(documents: Sequence[Document]) -> str:
    """Each method of a study: score, spread over seeds, interval, parameters, time, forgetting."""
    (document,) = documents
    methods = document["methods"]
    rows = [
        [
            short(method["name"]),
            scored(method),
            interval(method["average_ci95"]),
            f"{len(method['seeds'])}",
            numbers.count(method["trainable_parameters"]),
            numbers.readable_seconds(method["seconds"]),
        ]
        for method in methods
    ]
    head = ["method", metric(document), "95 % interval", "seeds", "parameters", "training"]
    if methods[0]["forgetting"] is not None:
        head.append("loss on general text")
        for row, method in zip(rows, methods, strict=True):
            row.append(f"{method['forgetting']:+.3f}")
    return table(head, rows)


def tasks(documents: Sequence[Document]) -> str:
    """Each method's score on each of several tasks."""
    (document,) = documents
    names = [f"{task}, n {how['n']:,}" for task, how in document["tasks"].items()]
    rows = [
        [short(method["name"]), *map(numbers.percent, method["tasks"].values())]
        for method in document["methods"]
    ]
    return table(["method", *names], rows)


def base(documents: Sequence[Document]) -> str:
    """The base model, scored before a run, and each task's most frequent answer.

    Raises:
        UserError: There are several runs, or the base model was not scored.
    """
    (document,) = documents
    report, *more = document["reports"]
    if more or report["average_base_value"] is None:
        raise UserError("a table `base` is of one run, with evaluation.base=true")
    heads, scored, most_frequent = [""], ["base model"], ["most frequent answer"]
    for task, how in report["tasks"].items():
        heads.append(f"{task}, n {how['n']:,}")
        scored.append(f"{numbers.percent(how['base_value'])} ({interval(how['base_ci95'])})")
        most_frequent.append(numbers.percent(how["majority_value"]))
    mean = numbers.percent(report["average_base_value"])
    return table(
        [*heads, "mean"],
        [
            [*scored, f"{mean} ({interval(report['average_base_ci95'])})"],
            [*most_frequent, numbers.percent(report["average_majority_value"])],
        ],
    )


def verdicts(documents: Sequence[Document]) -> str:
    """Each method against the one, with what the comparison could have seen."""
    (document,) = documents
    seeds = {method["name"]: len(method["seeds"]) for method in document["methods"]}
    rows = []
    for one in document["comparisons"]:
        _task, found = overall(one)  # type: ignore[misc]
        low, high = found["ci95"]
        rows.append(
            [
                f"{short(one['second'])} - {short(one['first'])}",
                numbers.points(found["value"]),
                f"{numbers.points(low)} to {numbers.points(high)}",
                f"{found['p_adjusted']:.2g}",
                numbers.points(found["detectable"]).lstrip("+"),
                f"{seeds[one['second']]}, {seeds[one['first']]}",
                found["verdict"].partition(";")[0],
            ]
        )
    return table(["pair", "points", "95 %", "p (Holm)", "could see", "seeds", "verdict"], rows)


def rates(documents: Sequence[Document]) -> str:
    """The held-out score of each adapter at each learning rate; see MARKS."""
    (document,) = documents
    found = document["learning_rates"]
    cells = {
        (row[0].text, row[1].number): MARKS.get(row[4].text, "{}").format(row[2].text)
        for row in learning_rate_table(found).rows
    }
    grid = sorted({rate for _, rate in cells})
    rows = [
        [short(name), *(cells.get((name, rate), "") for rate in grid)] for name in found["curves"]
    ]
    return table([f"held-out {found['metric']}", *map(numbers.rate, grid)], rows)


def commands(documents: Sequence[Document]) -> str:
    """The commands of a study, where they were run, and what they cost."""
    (document,) = documents
    ran = numbers.counted(document["runs"], "run")
    if document["tuning"]:
        ran += f" and {document['tuning']} tuning runs"
    return (
        "".join(f"    {command}\n" for command in document["commands"])
        + f"\n{ran}, {numbers.readable_seconds(document['training'])} of training on "
        f"{' and '.join(document['machines'])}.\n"
    )


def summary(documents: Sequence[Document]) -> str:
    """The methods' scores by study, with the verdict against LoRA."""
    names = dict.fromkeys(short(m["name"]) for document in documents for m in document["methods"])
    rows = []
    for name in names:
        row = [name]
        for document in documents:
            found = [m for m in document["methods"] if short(m["name"]) == name]
            against = [c for c in document["comparisons"] if short(c["second"]) == name]
            said = [overall(one)[1]["verdict"].partition(";")[0] for one in against]  # type: ignore[index]
            row.append(", ".join([*map(scored, found), *said]))
        rows.append(row)
    heads = [f"{named(list(document['tasks']))} ({metric(document)})" for document in documents]
    return table(["", *heads], rows)


TABLES: Mapping[str, Callable[[Sequence[Document]], str]] = {
    "commands": commands,
    "base": base,
    "scores": scores,
    "tasks": tasks,
    "verdicts": verdicts,
    "rates": rates,
    "summary": summary,
}


def named(tasks: Sequence[str]) -> str:
    """Three tasks by name, more by the first and the last."""
    return ", ".join(tasks) if len(tasks) < 4 else f"{tasks[0]} to {tasks[-1]}"


def metric(document: Document) -> str:
    """What the methods' scores are: of one task, or the mean over several."""
    each = list(document["tasks"].values())
    names = {how["metric"] for how in each}
    name = names.pop() if len(names) == 1 else "score"
    of = f" of {len(each)} tasks" if len(each) > 1 else ""
    return f"{name}{of}, n {sum(how['n'] for how in each):,}"


def short(name: str) -> str:
    """A method's name without the learning rate, which each method chose for itself."""
    return " ".join(word for word in name.split(" ") if not word.startswith("optimizer.lr="))


def scored(method: Mapping[str, Any]) -> str:
    text = numbers.percent(method["average"])
    return text if method["deviation"] is None else f"{text} ± {100 * method['deviation']:.1f}"


def interval(found: Sequence[float] | None) -> str:
    return "" if found is None else numbers.percent_interval(found)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str) -> str:
    """A page with its tables written anew."""

    def block(found: re.Match[str]) -> str:
        baseline = found["baseline"] or "lora"
        documents = [study(name, baseline) for name in found["studies"].split()]
        return f"{found[1]}\n{TABLES[found['kind']](documents)}\n"

    return BLOCK.sub(block, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", type=Path, nargs="+")
    for page in parser.parse_args().pages:
        try:
            page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        except (UserError, KeyError) as error:
            print(f"{page}: {error}", file=sys.stderr)
            return 2
        print(f"{page}: tables written from docs/results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
