import io
import logging
import re

import pytest
from rich.console import Console

from toplora_train.report.display import EncodingDisplay, EvaluationDisplay, TrainingDisplay


@pytest.fixture
def plain():
    return Console(file=io.StringIO(), force_terminal=False, width=60)


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)


def record(step, **more):
    return {"step": step, "loss": 1 / step, "lr": 1e-4, "tokens_per_second": 1234.4} | more


def test_without_a_terminal_every_logged_step_is_one_line(plain, caplog):
    with caplog.at_level(logging.INFO), TrainingDisplay(20, console=plain) as display:
        for step in range(1, 21):
            display.update(record(step, logged=step % 10 == 0))
    lines = plain.file.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 10/20  loss 0.1000  lr 1.00e-04  1,234 tok/s  ")
    assert lines[1].endswith("0.0 s left")
    assert [r.getMessage() for r in caplog.records] == lines


def test_a_validation_loss_is_part_of_the_line(plain):
    with TrainingDisplay(2, console=plain) as display:
        display.update(record(2, validation_loss=0.25))
    assert "validation loss 0.2500" in plain.file.getvalue()


def test_on_a_terminal_a_bar_moves_and_the_log_file_still_gets_the_lines(terminal, caplog):
    with caplog.at_level(logging.INFO), TrainingDisplay(4, console=terminal) as display:
        for step in range(1, 5):
            display.update(record(step))
    shown = terminal.file.getvalue()
    assert "training" in shown
    assert "4/4" in shown
    assert "loss 0.2500" in shown
    assert "step 4/4" not in shown
    assert len(caplog.records) == 4


def test_the_time_left_fits_on_a_narrow_terminal():
    narrow = Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False)
    with TrainingDisplay(1500, console=narrow) as display:
        display.update(record(1500, loss=12.3456, tokens_per_second=123456))
    shown = narrow.file.getvalue()
    assert "1500/1500 loss 12.3456  lr 1.00e-04  123,456 tok/s" in re.sub(
        r"\x1b\[[\d;]*m", "", shown
    )
    assert "…" not in shown


def test_the_cursor_comes_back_where_training_fails(terminal):
    with pytest.raises(ZeroDivisionError), TrainingDisplay(4, console=terminal):
        _ = 1 / 0
    assert terminal.file.getvalue().rfind("\x1b[?25h") > terminal.file.getvalue().rfind("\x1b[?25l")


def test_messages_are_printed_as_they_are_and_logged(plain, caplog):
    with caplog.at_level(logging.INFO), TrainingDisplay(4, console=plain) as display:
        display.message("checkpoint [bold] step 2 " + "x" * 80)
    assert plain.file.getvalue() == "checkpoint [bold] step 2 " + "x" * 80 + "\n"
    assert caplog.messages == ["checkpoint [bold] step 2 " + "x" * 80]


def test_an_evaluation_says_each_tenth_how_many_are_right(plain):
    with EvaluationDisplay("boolq", 400, console=plain) as display:
        for done in range(1, 401):
            display.update(done, 400, done // 2)
    lines = plain.file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "boolq 40/400  50.0% right so far"
    assert lines[-1] == "boolq 400/400  50.0% right so far"


def test_a_short_evaluation_is_not_a_wall_of_lines(plain):
    with EvaluationDisplay("boolq", 40, console=plain) as display:
        for done in range(1, 41):
            display.update(done, 40, 0)
    assert plain.file.getvalue() == "boolq 25/40  0.0% right so far\n"


def test_one_process_of_several_shows_its_share(plain):
    with EvaluationDisplay("boolq", 400, console=plain) as display:
        for done in range(1, 101):
            display.update(done, 100, done)
    assert plain.file.getvalue().splitlines()[-1] == "boolq 100/100  100.0% right so far"


def test_a_resumed_training_starts_its_bar_where_it_goes_on(terminal):
    with TrainingDisplay(8, console=terminal, start_step=5) as display:
        display.message("going on")
    assert "5/8" in terminal.file.getvalue()


def test_encoding_is_shown_only_when_it_takes_long(plain, monkeypatch):
    now = iter([0.0, 1.0, 3.0, 3.0, 9.0, 14.0, 14.0])
    monkeypatch.setattr("toplora_train.report.display.time.monotonic", lambda: next(now))
    with EncodingDisplay("training rows", 4000, console=plain) as display:
        for _ in range(4):
            display.add(1000)
    assert plain.file.getvalue().splitlines() == [
        "encoding training rows: 2,000 of 4,000 rows",
        "encoding training rows: 4,000 of 4,000 rows",
    ]
