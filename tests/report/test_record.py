import dataclasses
import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.report.made_up import made_up_report, task_score
from toplora_train.config.errors import UserError
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.report.record import (
    Finite,
    Interval,
    Measured,
    Positive,
    Share,
    Whole,
    completed_report,
    protocol_hash,
    read_report,
    write_report,
)

TASK = dataclasses.asdict(task_score())
PROMISED = {
    "": "schema_version status recipe seed command protocol_hash model adapter data train tasks "
    "average reload environment",
    "model": "path revision parameters dtype",
    "adapter": "name peft_type trainable_parameters mergeable settings",
    "data": "source rows sha256 truncated_rows supervised_tokens contamination",
    "train": "steps epochs loss_first loss_last tokens padding_fraction seconds tokens_per_second "
    "peak_memory_bytes world_size mixed_precision",
    "tasks.arithmetic": "metric value n ci95 base_value majority_value seconds",
    "reload": "max_abs_logit_difference missing unexpected",
}


@pytest.mark.parametrize("place", PROMISED)
def test_every_documented_key_is_present(place):
    values = made_up_report().to_dict()
    for key in filter(None, place.split(".")):
        values = values[key]
    assert set(PROMISED[place].split()) <= set(values)


def test_the_file_contains_the_report(tmp_path):
    path = tmp_path / "report.json"
    written = write_report(path, made_up_report())
    assert read_report(path) == written == json.loads(path.read_text(encoding="utf-8"))
    assert written["status"] == "completed"
    assert written["schema_version"] == 1
    assert written["adapter"]["settings"]["gate"]["activation"] == "exp"
    assert written["tasks"]["arithmetic"]["ci95"] == list(wilson_interval(256, 400))


def test_keys_missing_from_an_older_report_have_their_defaults(tmp_path):
    path = tmp_path / "report.json"
    written = write_report(path, made_up_report(notes=["one"]))
    earlier = json.loads(json.dumps(written))
    del earlier["gain"], earlier["train"]["selection"], earlier["tasks"]["arithmetic"]["more"]
    path.write_text(json.dumps(earlier))
    read = read_report(path)
    assert read.pop("gain") is None
    assert read == {key: value for key, value in written.items() if key != "gain"}


def test_the_average_is_over_tasks_and_has_an_interval():
    report = made_up_report(tasks={"a": task_score(100, 400, 40), "b": task_score(90, 100, 10)})
    values = report.to_dict()
    assert values["average"] == pytest.approx((0.25 + 0.9) / 2)
    low, high = values["average_ci95"]
    assert low < values["average"] < high
    assert values["average_base_value"] == pytest.approx(0.1)
    low, high = values["average_base_ci95"]
    assert low < 0.1 < high
    majorities = [task["majority_value"] for task in values["tasks"].values()]
    assert values["average_majority_value"] == pytest.approx(sum(majorities) / 2)


def test_the_average_of_one_task_is_that_task():
    values = made_up_report().to_dict()
    assert values["average"] == 0.64
    assert values["average_ci95"] == pytest.approx(values["tasks"]["arithmetic"]["ci95"])


def test_without_tasks_there_is_no_average():
    values = made_up_report(tasks={}).to_dict()
    assert (values["average"], values["average_ci95"], values["tasks"]) == (None, None, {})


def test_a_base_model_not_evaluated_on_all_tasks_has_no_average():
    tasks = {"a": task_score(), "b": task_score(base=None)}
    assert made_up_report(tasks=tasks).to_dict()["average_base_value"] is None


def test_a_nan_loss_is_null():
    train = dataclasses.replace(made_up_report().train, loss_last=float("nan"))
    assert made_up_report(train=train).to_dict()["train"]["loss_last"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "invalid JSON"),
        ("[" * 100_000, "invalid JSON \\(nested more than 100 deep"),
        ("[]", "must be a JSON object"),
        ('{"schema_version": 99}', "not a report of schema version 1"),
    ],
)
def test_an_unreadable_report_is_a_user_error(tmp_path, text, message):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"report\.json: {message}"):
        read_report(path)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("train", None, "'train' must be a mapping"),
        ("train", "text", "'train' must be a mapping"),
        ("train", {"steps": 3}, "no 'train.epochs'"),
        ("tasks", {"boolq": {"metric": "accuracy"}}, "no 'tasks.boolq.value'"),
        ("tasks", {"boolq": TASK | {"value": 7.0}}, "'tasks.boolq.value' must be at most 1"),
        ("tasks", {"boolq": TASK | {"value": None}}, "'tasks.boolq.value' must be a number"),
        ("gain", {"value": 0.1}, "no 'gain.ci95'"),
        ("forgetting", {"text": "a"}, "no 'forgetting.sha256'"),
        ("environment", {}, "no 'environment.packages'"),
        ("seed", "1", "'seed' must be an integer"),
        ("average", "high", "'average' must be a number"),
    ],
)
def test_a_completed_report_with_other_content_names_the_key(tmp_path, part, change, message):
    values = made_up_report().to_dict() | {part: change}
    (tmp_path / "report.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"report\.json: {message}"):
        read_report(tmp_path / "report.json")


def test_a_completed_report_without_a_part_names_it(tmp_path):
    values = made_up_report().to_dict()
    del values["train"]
    (tmp_path / "report.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"report\.json: no 'train'"):
        read_report(tmp_path / "report.json")


TASKS = {"boolq": {"source": "a", "choices": ["true", "false"], "licence": "x"}, "b": {"n": 1}}


def test_the_protocol_hash_is_sixteen_digits_and_does_not_depend_on_order():
    digest = protocol_hash(TASKS, 1, "clean", None)
    assert len(digest) == 16
    assert int(digest, 16) >= 0
    assert digest == protocol_hash(dict(reversed(TASKS.items())), 1, "clean", None)


@pytest.mark.parametrize(
    "other",
    [
        (TASKS, 2, "clean", None),
        (TASKS, 1, "legacy", None),
        (TASKS, 1, "clean", 100),
        ({"boolq": TASKS["boolq"]}, 1, "clean", None),
        (TASKS | {"b": {"n": 2}}, 1, "clean", None),
    ],
)
def test_whatever_affects_scores_changes_the_protocol_hash(other):
    assert protocol_hash(*other) != protocol_hash(TASKS, 1, "clean", None)


def test_a_licence_does_not_change_the_protocol_hash():
    other = TASKS | {"boolq": TASKS["boolq"] | {"licence": "y"}}
    assert protocol_hash(other, 1, "clean", None) == protocol_hash(TASKS, 1, "clean", None)


def test_only_a_completed_run_has_a_report_to_go_on_with(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        completed_report(tmp_path)
    failed = {"schema_version": 1, "status": "failed"}
    (tmp_path / "report.json").write_text(json.dumps(failed))
    with pytest.raises(UserError, match="its status is failed, not completed"):
        completed_report(tmp_path)


def read(kind, text: str):
    return TypeAdapter(kind).validate_json(text, strict=True)


def test_null_is_nan_where_a_measurement_may_be_undefined():
    assert read(Measured, "null") != read(Measured, "null")
    assert read(Interval, "[null, 0.5]")[1] == 0.5


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Measured, "0.1"),
        (Finite, None),
        (Share, 1.5),
        (Share, -2),
        (Whole, -1),
        (Whole, 2**63),
        (Whole, 1.5),
        (Positive, 0),
    ],
)
def test_other_values_are_refused(kind, value):
    with pytest.raises(ValidationError):
        read(kind, json.dumps(value))
