import io
import logging
import re

import pytest
from rich.console import Console

from toplora_train.evaluation.run_evaluation import Progress
from toplora_train.report.display import (
    EncodingDisplay,
    EvaluationDisplay,
    TimeLeft,
    TrainingDisplay,
    plain_console,
    say,
)


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


def test_a_validation_loss_is_on_the_line(plain):
    with TrainingDisplay(2, console=plain) as display:
        display.update(record(2, validation_loss=0.25))
    assert "validation loss 0.2500" in plain.file.getvalue()


def test_a_terminal_shows_a_bar_and_the_log_file_gets_lines(terminal, caplog):
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


def test_the_cursor_is_restored_if_training_fails(terminal):
    with pytest.raises(ZeroDivisionError), TrainingDisplay(4, console=terminal):
        _ = 1 / 0
    assert terminal.file.getvalue().rfind("\x1b[?25h") > terminal.file.getvalue().rfind("\x1b[?25l")


def test_messages_are_printed_verbatim_and_logged(plain, caplog):
    with caplog.at_level(logging.INFO), TrainingDisplay(4, console=plain) as display:
        display.message("checkpoint [bold] step 2 " + "x" * 80)
    assert plain.file.getvalue() == "checkpoint [bold] step 2 " + "x" * 80 + "\n"
    assert caplog.messages == ["checkpoint [bold] step 2 " + "x" * 80]


def test_an_evaluation_logs_its_accuracy_every_tenth(plain):
    with EvaluationDisplay("boolq", 400, console=plain) as display:
        for done in range(1, 401):
            display.update(Progress(done, 400, 0.5, 10, 4000 - 10 * done))
    lines = plain.file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("boolq 40/400  50.0% correct so far  ")
    assert lines[0].endswith(" s left")
    assert lines[-1].startswith("boolq 400/400  50.0% correct so far  in 0.")


def test_a_short_evaluation_logs_few_lines(plain):
    with EvaluationDisplay("boolq", 40, console=plain) as display:
        for done in range(1, 41):
            display.update(Progress(done, 40, 0.0, 1, 40 - done))
    (line,) = plain.file.getvalue().splitlines()
    assert line.startswith("boolq 25/40  0.0% correct so far  ")


def test_one_process_of_several_shows_its_shard(plain):
    with EvaluationDisplay("boolq", 400, console=plain) as display:
        for done in range(1, 101):
            display.update(Progress(done, 100, 1.0, 1, 100 - done))
    last = plain.file.getvalue().splitlines()[-1]
    assert last.startswith("boolq 100/100  100.0% correct so far")


def test_a_regression_shows_its_mean_error(plain):
    with EvaluationDisplay("stsb", 25, console=plain, numbers=True) as display:
        for done in range(1, 26):
            display.update(Progress(done, 25, 0.81234, 1, 25 - done))
    assert plain.file.getvalue().startswith("stsb 25/25  mean error 0.812 so far")


def test_resumed_rows_give_no_estimate_of_the_time_left(plain):
    with EvaluationDisplay("boolq", 50, console=plain) as display:
        display.update(Progress(30, 50, 0.5, 0, 200))
    assert plain.file.getvalue() == "boolq 30/50  50.0% correct so far\n"


def test_the_bar_of_a_finished_evaluation_is_replaced_by_its_line(terminal):
    with EvaluationDisplay("boolq", 2, console=terminal) as display:
        display.update(Progress(1, 2, 1.0, 10, 10))
        display.update(Progress(2, 2, 1.0, 10, 0))
        display.message("boolq: accuracy 100.0%")
    erased = terminal.file.getvalue().rindex("\x1b[2K")  # the bar's line, at the very end
    assert terminal.file.getvalue().rindex("boolq: accuracy") < erased
    assert "correct so far" not in terminal.file.getvalue()[erased:]


def test_the_time_left_becomes_the_time_taken_at_the_end(terminal):
    with TrainingDisplay(2, console=terminal) as display:
        display.update(record(1))
        display._progress.refresh()
        display.update(record(2))
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", terminal.file.getvalue())
    assert re.search(r"1/2 .* s left", shown)
    assert re.search(r"2/2 .* in \d\.\d s", shown)


def test_a_validation_loss_with_its_own_line_is_not_repeated(plain):
    with TrainingDisplay(2, console=plain, judged=True) as display:
        display.update(record(2, validation_loss=0.25))
    assert "validation" not in plain.file.getvalue()


def test_lines_wrap_between_words_and_paths_are_not_broken():
    narrow = Console(file=io.StringIO(), force_terminal=True, width=40, legacy_windows=False)
    path = "/runs/20260101-120000-a-recipe-with-a-long-name/report.html"
    say(narrow, f"report: {path} (also report.md, report.json)\nadapter: here")
    assert narrow.file.getvalue().splitlines() == [
        "report:",
        path,
        "(also report.md, report.json)",
        "adapter: here",
    ]


def test_lines_are_not_wrapped_without_a_terminal(plain):
    say(plain, "word " * 30 + "end")
    assert plain.file.getvalue() == "word " * 30 + "end\n"


def test_a_resumed_training_starts_its_bar_at_the_resumed_step(terminal):
    with TrainingDisplay(8, console=terminal, start_step=5) as display:
        display.message("going on")
    assert "5/8" in terminal.file.getvalue()


def test_encoding_is_shown_only_if_it_is_slow(plain, monkeypatch):
    now = iter([0.0, 1.0, 3.0, 3.0, 9.0, 14.0, 14.0])
    monkeypatch.setattr("toplora_train.report.display.time.monotonic", lambda: next(now))
    with EncodingDisplay("training rows", 4000, console=plain) as display:
        for _ in range(4):
            display.add(1000)
    assert plain.file.getvalue().splitlines() == [
        "encoding training rows: 2,000 of 4,000 rows",
        "encoding training rows: 4,000 of 4,000 rows",
    ]


def test_brackets_are_printed_as_they_are(capsys):
    console = plain_console()
    path = "/runs/x[/red]y/[bold]z[not a tag]"
    say(console, path)
    console.print(path, soft_wrap=True)
    with EvaluationDisplay(path, 4, console=Console(force_terminal=True, markup=True)):
        pass
    assert capsys.readouterr().out.count(path) >= 2


LENGTHS = sorted((20 + 7 * index % 181 for index in range(640)), reverse=True)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("toplora_train.report.display.time.monotonic", lambda: now[0])
    return now


def worst_estimate(clock, *, per_token, per_row, batch=32, after=2):
    """The largest relative error of the estimates made after each batch."""
    total = sum(per_token * length + per_row for length in LENGTHS)
    left, worst = TimeLeft(), 0.0
    for start in range(0, len(LENGTHS), batch):
        rows = LENGTHS[start : start + batch]
        clock[0] += sum(per_token * length + per_row for length in rows)
        for length in rows:
            left.add(1, length)
            clock[0] += 1e-5
        rest = LENGTHS[start + batch :]
        truth = total - clock[0]
        said = left.seconds(len(rest), sum(rest))
        if rest and start // batch + 1 >= after:
            worst = max(worst, abs(said - truth) / truth)
    return worst


@pytest.mark.parametrize(
    ("per_token", "per_row"),
    [(0.02, 0.0), (0.0, 2.0), (0.01, 1.0)],
    ids=["read", "written", "both"],
)
def test_it_is_accurate_from_the_second_batch_on_for_any_cost(clock, per_token, per_row):
    assert worst_estimate(clock, per_token=per_token, per_row=per_row) < 0.02


@pytest.mark.parametrize(("per_token", "per_row"), [(0.02, 0.0), (0.0, 2.0)])
def test_after_one_batch_it_is_off_by_less_than_half(clock, per_token, per_row):
    assert worst_estimate(clock, per_token=per_token, per_row=per_row, after=1) < 0.5


def test_it_counts_down_between_batches_and_never_below_zero(clock):
    left = TimeLeft()
    assert left.seconds(64, 640) is None
    clock[0] = 60.0
    for _ in range(32):
        left.add(1, 10)
    assert left.seconds(64, 640) == pytest.approx(120)
    clock[0] = 100.0
    assert left.seconds(64, 640) == pytest.approx(80)
    clock[0] = 1000.0
    assert left.seconds(64, 640) == 0


def test_it_adapts_to_slower_batches(clock):
    """Answers verified in one forward pass come first; the rest have to be decoded."""
    left = TimeLeft()
    for cost in [1.0] * 20 + [10.0] * 12:
        clock[0] += cost
        left.add(32, 3200)
    assert left.seconds(320, 32000) == pytest.approx(100, rel=0.25)
