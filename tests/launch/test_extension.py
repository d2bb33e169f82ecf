"""Whether a finished run can be extended."""

from dataclasses import replace

import pytest

from tests.config.example import run_config
from tests.report.made_up import made_up_report
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import read_config, write_config
from toplora_train.launch.extension import keeping_the_end
from toplora_train.launch.rundir import ADAPTER, CONFIG, is_already_done
from toplora_train.report.record import write_report


def finish(run_dir, **train):
    """3,000 rows in 150 steps, 182,340 tokens."""
    report = made_up_report()
    report = replace(report, train=replace(report.train, **train))
    write_report(run_dir / "report.json", report)
    write_config(wanted(), run_dir / CONFIG)
    (run_dir / "adapter").mkdir(exist_ok=True)
    for name in ADAPTER:
        (run_dir / name).touch()
    (run_dir / "checkpoints" / "step-00000150").mkdir(parents=True)
    return run_dir


def wanted(**changes):
    changes = {"trainer__batch_size": 20, "trainer__micro_batch_size": 4} | changes
    return run_config(**changes)


@pytest.mark.parametrize(
    "longer", [{"trainer__epochs": 2}, {"trainer__max_steps": 151}, {"trainer__max_tokens": 182341}]
)
def test_a_finished_run_may_be_extended(tmp_path, longer):
    finish(tmp_path)
    assert not is_already_done(wanted(resume="extend", **longer), tmp_path)
    also_shown_otherwise = wanted(resume="extend", trainer__keep=9, trainer__log_every=1, **longer)
    assert not is_already_done(also_shown_otherwise, tmp_path)


def test_a_finished_extension_is_done(tmp_path):
    assert is_already_done(wanted(resume="extend"), finish(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"trainer__max_steps": 150},
            r"already trained 150 steps, but trainer\.max_steps=150 means 150; set more",
        ),
        ({"trainer__max_steps": 9}, r"trainer\.max_steps=9 means 9"),
        ({"trainer__max_tokens": 500}, r"182,340 tokens, but trainer\.max_tokens=500"),
        (
            {"trainer__epochs": 2, "optimizer__lr": 0.5},
            r"can only change the length of .* \(optimizer\.lr=0\.0001, now 0\.5\)",
        ),
    ],
)
def test_other_changes_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        is_already_done(wanted(resume="extend", **changes), finish(tmp_path))


def test_a_run_stopped_by_patience_is_not_extended(tmp_path):
    finish(tmp_path, selection={"stopped_early": True})
    with pytest.raises(UserError, match=r"stopped by trainer\.patience after step 150"):
        is_already_done(wanted(resume="extend", trainer__epochs=2), tmp_path)


def test_a_run_without_a_checkpoint_is_not_extended(tmp_path):
    (finish(tmp_path) / "checkpoints" / "step-00000150").rmdir()
    with pytest.raises(UserError, match="no checkpoint to continue from"):
        is_already_done(wanted(resume="extend", trainer__epochs=2), tmp_path)


def test_the_remedy_for_another_length_is_named(tmp_path):
    with pytest.raises(UserError, match="extend it with resume=extend, or choose"):
        is_already_done(wanted(resume="auto", trainer__epochs=2), finish(tmp_path))


def test_there_must_be_a_finished_run(tmp_path):
    with pytest.raises(UserError, match=r"is for a finished run, but .* holds no run; leave"):
        is_already_done(wanted(resume="extend"), tmp_path)
    (finish(tmp_path) / "report.json").unlink()
    with pytest.raises(UserError, match=r"an unfinished run \(at step-00000150\); finish it first"):
        is_already_done(wanted(resume="extend", trainer__epochs=2), tmp_path)


def test_a_refused_extension_does_not_change_the_finished_run(tmp_path):
    finish(tmp_path)
    before = (tmp_path / CONFIG).read_bytes(), (tmp_path / "report.json").read_bytes()
    with keeping_the_end(tmp_path):
        write_config(wanted(trainer__epochs=2), tmp_path / CONFIG)
    assert before == ((tmp_path / CONFIG).read_bytes(), (tmp_path / "report.json").read_bytes())
    assert not (tmp_path / "earlier").exists()


def test_an_interrupted_extension_resumes_to_the_same_length_only(tmp_path):
    finish(tmp_path)
    with keeping_the_end(tmp_path):
        write_config(wanted(trainer__epochs=2), tmp_path / CONFIG)
        (tmp_path / "report.json").unlink()  # as the worker does before the first step
    assert read_config(tmp_path / "earlier" / "step-00000150" / CONFIG).trainer.epochs == 1
    for resume in ("extend", "auto"):
        assert not is_already_done(wanted(resume=resume, trainer__epochs=2), tmp_path)
        with pytest.raises(UserError, match=r"\(trainer\.epochs=2, now 3\); finish that extension"):
            is_already_done(wanted(resume=resume, trainer__epochs=3), tmp_path)
    with pytest.raises(UserError, match="holds an unfinished run"):
        is_already_done(wanted(trainer__epochs=2), tmp_path)


def test_a_process_that_starts_late_sees_an_extension_and_not_a_finished_run(tmp_path):
    """Rank 0 has written the extension's configuration, but the run has its report still."""
    longer = wanted(resume="extend", trainer__epochs=2)
    with keeping_the_end(finish(tmp_path)):
        write_config(longer, tmp_path / CONFIG)
        assert not is_already_done(longer, tmp_path)
    assert is_already_done(wanted(resume="extend"), tmp_path)
