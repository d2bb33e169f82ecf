import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from toplora_train.report.trackers.base import NoTracker
from toplora_train.run.fit.metric_logging import Monitor, metric_logging
from toplora_train.train.record import StepRecord


def record(step: int, logged: bool) -> StepRecord:
    numbers = dict.fromkeys(StepRecord.__dataclass_fields__, 1.0)
    return StepRecord(
        **numbers
        | {
            "step": step,
            "logged": logged,
            "validation_loss": None,
            "training_stats": {"adapter_norm": 0.5},
        }
    )


@pytest.mark.parametrize("silent", [False, True])
def test_logged_steps_are_shown_and_written_by_rank_0_only(tmp_path: Path, silent: bool):
    shown = io.StringIO()
    with metric_logging(
        tmp_path,
        Monitor(
            NoTracker(),
            Console(file=shown),
            silent,
        ),
        total_steps=3,
        resumed_step=None,
    ) as log:
        for step in (1, 2, 3):
            log(record(step, logged=step != 2))
    if silent:
        assert list(tmp_path.iterdir()) == []
        assert shown.getvalue() == ""
    else:
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 3]
        assert [json.loads(line)["adapter_norm"] for line in lines] == [0.5, 0.5]
        assert "step 3/3" in shown.getvalue()
