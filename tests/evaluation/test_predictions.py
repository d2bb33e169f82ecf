import dataclasses
import json

import pytest

from toplora_train.config.errors import UserError
from toplora_train.evaluation.predictions import (
    Prediction,
    PredictionFile,
    finished_predictions,
    read_predictions,
    unfinished_predictions,
    write_predictions,
)


def prediction(name, output="The answer is 2\u2028é"):
    return Prediction(name, f"prompt\nof {name}", output, "2", "2", True)


A, B, C = (prediction(name) for name in "abc")


def test_finished_predictions_read_back_as_written_without_leftover_files(tmp_path):
    path = tmp_path / "predictions" / "task.jsonl"
    with PredictionFile(path) as file:
        file.add(B)
        file.add(A)
        file.finish([A, B])
    assert read_predictions(path) == [A, B]
    assert [p.name for p in path.parent.iterdir()] == ["task.jsonl"]


def test_a_line_has_exactly_the_documented_keys(tmp_path):
    path = tmp_path / "task.jsonl"
    with PredictionFile(path) as file:
        file.finish([A])
    (line,) = path.read_text(encoding="utf-8").splitlines()[:1]
    assert list(json.loads(path.read_text(encoding="utf-8"))) == [
        "id",
        "prompt",
        "output",
        "prediction",
        "label",
        "correct",
    ]
    assert line.startswith('{"id": "a"')


def test_a_line_says_only_of_an_answer_that_was_cut_off_that_it_was(tmp_path):
    path = tmp_path / "task.jsonl"
    cut = dataclasses.replace(A, cut_off=True)
    write_predictions(path, [A, cut])
    first, second, end = path.read_text(encoding="utf-8").split("\n")
    assert "cut_off" not in first
    assert '"cut_off": true' in second
    assert end == ""
    assert read_predictions(path) == [A, cut]


def test_an_interrupted_evaluation_resumes_where_it_stopped(tmp_path):
    path = tmp_path / "task.jsonl"
    with PredictionFile(path, belongs_to="weights 1") as file:
        file.add(A)
        file.add(B)
    assert not path.exists()
    assert unfinished_predictions(path, belongs_to="weights 1") == {"a": A, "b": B}
    with PredictionFile(path, belongs_to="weights 1") as file:
        file.add(C)
        file.finish([A, B, C])
    assert read_predictions(path) == [A, B, C]


def test_a_truncated_last_line_is_dropped(tmp_path):
    path = tmp_path / "task.jsonl"
    with PredictionFile(path) as file:
        file.add(A)
        file.add(B)
    partial = tmp_path / "task.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[:-25])
    for expected in ({"a": A}, {"a": A, "c": C}):
        assert unfinished_predictions(path) == expected
        with PredictionFile(path) as file:
            if "c" not in expected:
                file.add(C)


def test_predictions_of_other_weights_are_not_reused(tmp_path):
    path = tmp_path / "task.jsonl"
    with PredictionFile(path, belongs_to="weights 1") as file:
        file.add(A)
    assert unfinished_predictions(path, belongs_to="weights 2") == {}
    with PredictionFile(path, belongs_to="weights 2"):
        assert unfinished_predictions(path, belongs_to="weights 2") == {}


def test_a_partial_file_without_a_valid_first_line_is_overwritten(tmp_path):
    path = tmp_path / "task.jsonl"
    (tmp_path / "task.jsonl.partial").write_text('{"belongs_')
    assert unfinished_predictions(path) == {}
    with PredictionFile(path) as file:
        file.add(A)
    assert unfinished_predictions(path) == {"a": A}


def test_partial_files_of_several_processes_can_be_resumed_by_any_number_of_processes(tmp_path):
    path = tmp_path / "task.jsonl"
    with PredictionFile(path) as first, PredictionFile(path, rank=1) as second:
        first.add(A)
        second.add(B)
    assert unfinished_predictions(path) == {"a": A, "b": B}
    with PredictionFile(path) as alone:
        alone.add(C)
    assert unfinished_predictions(path) == {"a": A, "b": B, "c": C}
    with PredictionFile(path) as alone, PredictionFile(path, rank=1):
        alone.finish([A, B, C])
    assert [p.name for p in tmp_path.iterdir()] == ["task.jsonl"]


def test_a_missing_predictions_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file; evaluate the task"):
        read_predictions(tmp_path / "none.jsonl")


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "task.jsonl"
    with PredictionFile(path) as file:
        file.finish([A])
    path.write_text(path.read_text(encoding="utf-8") + '{"id": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"task\.jsonl, line 2: .*; remove the file"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": "yes"}, "'correct' must be true or false"),
        ({"correct": 1}, "'correct' must be true or false"),
        ({"scores": {"a": "high"}}, "'scores.a' must be a number"),
        ({"label": None}, "'label' must be a string"),
    ],
)
def test_a_value_of_another_type_is_named_and_never_scored(tmp_path, change, message):
    line = json.dumps(dataclasses.asdict(A) | change)
    (tmp_path / "task.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=rf"task\.jsonl, line 1: {message}"):
        read_predictions(tmp_path / "task.jsonl")


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00", b"\x00\x80\n", b"[" * 100_000])
def test_a_binary_or_absurd_file_is_a_user_error(tmp_path, content):
    (tmp_path / "task.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"task\.jsonl, line 1: "):
        read_predictions(tmp_path / "task.jsonl")


def test_a_finished_file_is_reused_only_for_the_same_weights_and_protocol(tmp_path):
    path = tmp_path / "task.jsonl"
    with PredictionFile(path, belongs_to="a") as file:
        file.finish([A, B])
    assert finished_predictions(path, belongs_to="a") == [A, B]
    assert finished_predictions(path, belongs_to="b") == []
    assert finished_predictions(tmp_path / "other.jsonl", belongs_to="a") == []
    with PredictionFile(path, belongs_to="b") as file:
        file.finish([C])
    assert finished_predictions(path, belongs_to="a") == []
