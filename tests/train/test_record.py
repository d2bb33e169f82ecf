from toplora_train.report.metrics_file import KEYS
from toplora_train.train.record import StepRecord


def test_a_record_has_every_documented_field_of_metrics_jsonl():
    assert StepRecord.__dataclass_fields__.keys() >= set(KEYS)


def test_a_step_that_is_not_logged_has_no_training_stats():
    numbers = dict.fromkeys(KEYS, 1)
    assert StepRecord(**numbers, validation_loss=None, logged=False).training_stats == {}
