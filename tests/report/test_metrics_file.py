import json

import pytest

from tests.report.made_up import made_up_metrics
from toplora_train.config.errors import UserError
from toplora_train.report.metrics_file import KEYS, MetricsFile, read_metrics

ROWS = made_up_metrics(6)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as file:
        for row in ROWS:
            file.append(row)
    return path


def test_every_line_is_flushed_with_the_required_keys(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as file:
        file.append(ROWS[0] | {"logged": True, "validation_loss": None})
        assert list(json.loads(path.read_text())) == list(KEYS)
        file.append(ROWS[1] | {"validation_loss": 0.5})
    assert read_metrics(path) == [ROWS[0], ROWS[1] | {"validation_loss": 0.5}]


def test_a_record_without_a_required_key_is_refused(tmp_path):
    record = {key: 1 for key in KEYS if key != "grad_norm"}
    with (
        MetricsFile(tmp_path / "metrics.jsonl") as file,
        pytest.raises(KeyError, match="grad_norm"),
    ):
        file.append(record)


def test_a_resumed_run_drops_the_lines_after_its_checkpoint(path):
    with MetricsFile(path, resumed_step=40) as file:
        file.append(ROWS[4])
        file.append(ROWS[5])
    assert read_metrics(path) == [*ROWS[:4], ROWS[4] | {"resumed_after": 40}, ROWS[5]]


def test_a_fresh_run_replaces_the_file(path):
    MetricsFile(path).close()
    assert read_metrics(path) == []


def test_a_resumed_run_without_a_file_starts_one(tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl", resumed_step=3).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_an_incomplete_last_line_is_dropped(path):
    path.write_bytes(path.read_bytes()[:-30])
    assert read_metrics(path) == ROWS[:5]
    with MetricsFile(path, resumed_step=60) as file:
        file.append(ROWS[5])
    assert read_metrics(path) == [*ROWS[:5], ROWS[5] | {"resumed_after": 60}]
    assert len(path.read_text().splitlines()) == 6


def test_infinity_is_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as file:
        file.append(ROWS[0] | {"grad_norm": float("inf")})
    assert "Infinity" not in path.read_text()
    assert read_metrics(path)[0]["grad_norm"] is None


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl: no such file"):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("line", ['{"step": 1, "loss": "low"}', '{"step": null}', "[]", "7"])
def test_a_line_without_numbers_is_named(path, line):
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=rf"line {len(ROWS) + 1}: .* must be a number; remove"):
        read_metrics(path)
