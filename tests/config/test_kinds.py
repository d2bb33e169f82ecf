from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.run.conftest import tiny_run
from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task, own_split, training_sources, validate_tasks
from toplora_train.config.schema import DatasetSettings, RunConfig, TaskSettings


def task(name: str, **settings: Any) -> TaskSettings:
    known: dict[str, Any] = {
        "source": "owner/data",
        "subset": name,
        "kind": "classify",
        "choices": ["no", "yes"],
    }
    return TaskSettings(name=name, **(known | settings))


def run_of(*tasks: TaskSettings, **dataset: Any) -> RunConfig:
    config = tiny_run(Path("run"))
    return replace(
        config,
        task={one.name: one for one in tasks},
        dataset=replace(config.dataset, **dataset),
    )


def test_the_kind_of_the_tasks_decides_whether_there_is_a_head():
    generates = TaskSettings(name="a", source="a.jsonl")
    assert head_task(run_of(generates)) is None
    assert head_task(run_of(task("rte"))) == task("rte")


def test_a_train_source_can_be_the_tasks_own_split():
    assert own_split(run_of(task("rte"), train="task:train")) == "train"
    assert own_split(run_of(task("rte"), train="rows.jsonl")) is None


def test_tasks_that_share_one_head_are_accepted():
    validate_tasks(run_of(task("m", subset="mnli"), task("mm", subset="mnli")))
    validate_tasks(run_of(task("stsb", kind="regress", choices=[], metric="pearson")))
    both = task("mrpc", metric="accuracy", also=["f1", "matthews"])
    validate_tasks(run_of(both, train="task:train"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            run_of(task("rte"), TaskSettings(name="boolq", source="a.jsonl")),
            r"task.rte \(classify\) and task.boolq \(generate\) need different models",
        ),
        (
            run_of(task("rte"), task("stsb", kind="regress", choices=[], metric="pearson")),
            r"task.rte \(classify\) and task.stsb \(regress\) need different models",
        ),
        (run_of(task("rte"), task("cola", choices=["bad", "good"])), "need different models"),
        (run_of(task("rte", choices=[])), "needs choices"),
        (run_of(task("rte", choices=["a", "a"])), "needs choices"),
        (run_of(task("rte", metric="pearson")), "kind classify has no metric pearson"),
        (run_of(task("x", kind="generate", metric="f1")), "kind generate has no metric f1"),
        (run_of(task("m", choices=["a", "b", "c"], also=["f1"])), "f1 needs two classes"),
        (run_of(task("s", kind="regress", metric="pearson")), "so it takes no choices"),
        (
            run_of(task("rte", max_new_tokens=4)),
            r"task.rte.max_new_tokens has no effect on kind cl",
        ),
        (
            run_of(task("x", kind="generate", text="question")),
            r"task.x.text has no effect on kind generate",
        ),
        (
            run_of(
                TaskSettings(name="x", source="x", prompt="{q} {gold}", fields={"answer": "gold"})
            ),
            r"task.x.prompt shows the model the row's answer \({gold}\)",
        ),
        (run_of(prompt="{instruction}{output}"), "dataset.prompt shows the model the row's output"),
        (run_of(task("rte", prompt="{text}")), r"task.rte.prompt has no effect on kind classify"),
        (run_of(task("rte"), test="b.jsonl"), "dataset.test needs a language model"),
        (run_of(train="task:train"), "dataset.train=task:train needs a task"),
        (
            run_of(task("a", source="llm-adapters:a/test.json"), train="task:train"),
            "would train on the test rows of task.a",
        ),
        (run_of(task("a"), train="task:test"), "would train on the test rows of task.a"),
        (
            run_of(task("a"), task("b"), train="task:train"),
            "task.a and task.b have different ones",
        ),
    ],
)
def test_tasks_that_one_model_cannot_learn_are_rejected_by_name(config: RunConfig, message: str):
    with pytest.raises(UserError, match=message):
        validate_tasks(config)


def test_a_legacy_protocol_has_its_own_prompts():
    for config in (run_of(TaskSettings(name="x", source="x", prompt="{q}")), run_of(prompt="{q}")):
        legacy = replace(config, evaluation=replace(config.evaluation, protocol="legacy.toplora"))
        with pytest.raises(
            UserError, match=r"(task\.x|dataset)\.prompt out, or use protocol=clean"
        ):
            validate_tasks(legacy)


def test_a_prompt_protocol_is_rejected_for_a_task_with_a_head():
    config = run_of(task("rte"))
    config = replace(config, evaluation=replace(config.evaluation, protocol="legacy.toplora"))
    with pytest.raises(UserError, match=r"task\.rte has kind classify; leave it out"):
        validate_tasks(config)


def test_sources_have_weights_and_one_source_is_one():
    train = ["a.jsonl", {"path": "b.jsonl", "weight": 2}, {"path": "c.jsonl"}]
    dataset = DatasetSettings(name="d", train=train)
    assert training_sources(dataset) == [("a.jsonl", 1), ("b.jsonl", 2), ("c.jsonl", 1)]
    assert training_sources(replace(dataset, train="a.jsonl")) == [("a.jsonl", 1)]
    assert training_sources(replace(dataset, train=None)) == []
