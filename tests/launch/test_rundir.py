"""Whether a run may start in its directory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.launch.rundir import (
    ADAPTER,
    CONFIG,
    STUDY,
    forget_failure,
    how_to_resume,
    is_already_done,
    make_run_dir,
    new_run_dir,
)


@pytest.fixture
def finished(tmp_path):
    write_config(run_config(output_dir=str(tmp_path)), tmp_path / CONFIG)
    (tmp_path / "report.json").write_text('{"status": "completed"}')
    (tmp_path / "adapter").mkdir()
    for name in ADAPTER:
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def unfinished(tmp_path):
    write_config(run_config(output_dir=str(tmp_path)), tmp_path / CONFIG)
    for step in ("step-00000002", "step-00000010", ".step-00000012.aside"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    return tmp_path


def test_an_empty_directory_is_free(tmp_path):
    assert not is_already_done(run_config(), tmp_path)
    assert not is_already_done(run_config(resume="auto"), tmp_path)


def test_a_finished_run_requires_another_directory(finished):
    with pytest.raises(UserError, match="finished run; choose another output_dir"):
        is_already_done(run_config(), finished)


def test_resuming_the_same_finished_run_finds_it_done(finished):
    same = run_config(resume="auto", output_dir="elsewhere", command="typed otherwise")
    assert is_already_done(same, finished)


def test_resuming_a_finished_run_with_other_settings_names_them(finished):
    other = run_config(resume="auto", optimizer__lr=2e-4, trainer__max_steps=9)
    with pytest.raises(UserError) as error:
        is_already_done(other, finished)
    assert "optimizer.lr=0.0001, now 0.0002; trainer.max_steps=None, now 9" in str(error.value)


def test_an_unfinished_run_names_its_checkpoint_and_both_remedies(unfinished):
    with pytest.raises(
        UserError, match=r"step-00000010\).*resume=auto or choose another output_dir"
    ):
        is_already_done(run_config(), unfinished)


def test_an_unfinished_run_may_be_resumed(unfinished):
    assert not is_already_done(run_config(resume="auto"), unfinished)


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    write_config(run_config(output_dir=str(tmp_path)), tmp_path / CONFIG)
    (tmp_path / "checkpoints" / ".step-00000012.aside").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000012.tmp").mkdir()
    assert not is_already_done(run_config(), tmp_path)


def test_commands_of_the_same_second_each_get_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: new_run_dir(tmp_path / "runs" / "a-smoke"), range(8)))
    assert sorted(path.name for path in found) == [
        "a-smoke",
        *(f"a-smoke-{number}" for number in range(2, 9)),
    ]
    assert all(path.is_dir() for path in found)


def test_a_directory_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output_dir=.*file/run cannot be created"):
        make_run_dir(tmp_path / "file" / "run")


def test_forgetting_a_missing_failure_is_fine(tmp_path):
    forget_failure(tmp_path)


def test_resuming_is_explained_where_there_is_a_checkpoint(unfinished, tmp_path_factory):
    named = run_config(command="toplora-train output_dir=run")
    assert how_to_resume(named, unfinished) == (
        "step-00000010 is saved; continue with the same command and resume=auto"
    )
    unnamed = run_config(command="toplora-train recipe=smoke")
    assert f"same command, output_dir={unfinished} and resume" in how_to_resume(unnamed, unfinished)
    assert how_to_resume(named, tmp_path_factory.mktemp("empty")) == ""


def test_an_interruption_before_the_first_checkpoint_says_that_predictions_are_kept(tmp_path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "boolq.base.jsonl.partial").touch()
    named = run_config(command="toplora-train output_dir=run")
    assert how_to_resume(named, tmp_path) == (
        "no checkpoint is saved yet, but the base model's predictions are; "
        "continue with the same command and resume=auto"
    )
    again = run_config(command="toplora-train output_dir=run resume=auto", resume="auto")
    assert how_to_resume(again, tmp_path).endswith("continue with the same command")


def test_a_single_run_does_not_write_into_a_studys_folder(tmp_path):
    (tmp_path / STUDY).touch()
    for resume in (None, "auto"):
        with pytest.raises(
            UserError, match="holds a study; continue it with -m, or choose another"
        ):
            is_already_done(run_config(resume=resume), tmp_path)


def test_a_job_of_a_study_is_not_continued_by_itself(tmp_path):
    (tmp_path / STUDY).touch()
    (tmp_path / "job" / "checkpoints" / "step-00000010").mkdir(parents=True)
    saved = how_to_resume(run_config(resume="auto"), tmp_path / "job")
    assert saved == "step-00000010 is saved"


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "report.md",
        "adapter/README.md",
        "metrics.jsonl",
        "metrics.csv",
        "predictions/a.json",
        "inspection/inspection.json",
    ],
)
def test_files_that_no_run_wrote_are_not_overwritten(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine: all mine\n")
    for resume in (None, "auto"):
        with pytest.raises(UserError, match=f"its {name.split('/')[0]} would be overwritten"):
            is_already_done(run_config(resume=resume), tmp_path)
    assert (tmp_path / name).read_text() == "mine: all mine\n"


def test_other_files_may_lie_in_the_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert not is_already_done(run_config(), tmp_path)


def test_a_failed_run_may_be_repeated_in_its_folder(tmp_path):
    write_config(run_config(output_dir=str(tmp_path)), tmp_path / CONFIG)
    (tmp_path / "report.json").write_text('{"status": "failed"}')
    (tmp_path / "predictions").mkdir()
    assert not is_already_done(run_config(), tmp_path)


def test_a_finished_run_that_lost_its_adapter_is_not_called_done(finished):
    (finished / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"without its adapter/adapter_model.*another output_dir"):
        is_already_done(run_config(resume="auto"), finished)
    (finished / "checkpoints" / "step-00000002").mkdir(parents=True)
    with pytest.raises(UserError, match=r"delete its report\.json .* from step-00000002"):
        is_already_done(run_config(resume="auto"), finished)


def test_a_path_that_libraries_cannot_encode_is_refused_at_the_start(tmp_path):
    with pytest.raises(UserError, match="is not UTF-8 under this locale"):
        make_run_dir(tmp_path / "gr\udcc3\udcb6")


@pytest.mark.parametrize("root", ["/", "//", "///", "/..", "//.."])
def test_the_root_of_the_file_system_is_refused(root: str):
    with pytest.raises(UserError, match="root of the file system"):
        make_run_dir(Path(root))
