"""Jobs keep their folders, and the files of a study say how far each has come."""

import json
import threading
from dataclasses import replace

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.report.jobs import JOBS
from toplora_train.study.folder import MAX_NAME, Study, digest_of, folder_name, is_done

COMMAND = {"time": "2026-01-01T00:00:00", "command": "toplora-train -m seed=1,2"}


def planned(study, *seeds, **of):
    jobs = study.place([(f"seed={seed}", run_config(seed=seed)) for seed in seeds])
    study.write(COMMAND, jobs, {"model": ["tiny"], **of})
    return jobs


def finish(study, job, config):
    study.run_dir(job).mkdir()
    write_config(config, study.run_dir(job) / "config.yaml")
    (study.run_dir(job) / "report.json").write_text('{"status": "completed"}')


def longer(config, steps):
    return replace(config, trainer=replace(config.trainer, max_steps=steps), resume="extend")


def test_a_job_is_recognized_by_its_settings_not_by_where_or_how_it_runs():
    one = digest_of(run_config(seed=1, output_dir="a", command="x", resume="auto"))
    assert one == digest_of(run_config(seed=1, output_dir="b", data_root="/mirror"))
    assert one != digest_of(run_config(seed=2))
    assert digest_of(run_config(seed=1), without={"seed"}) == digest_of(
        run_config(seed=2), without={"seed"}
    )


def test_a_name_is_the_overrides_without_characters_of_the_command_line():
    assert folder_name("adapter=lora adapter.r=4") == "adapter-lora_adapter.r-4"
    assert folder_name("") == "job"
    assert set(folder_name("dataset.train=/a/../b c.jsonl,model.path='x/y'")) <= set(
        "abcdefghijklmnopqrstuvwxyz._-"
    )


def test_a_long_name_keeps_both_ends():
    name = folder_name("adapter=lora dataset.train=" + "y" * 500 + " seed=3")
    assert len(name) <= MAX_NAME
    assert name.startswith("adapter-lora")
    assert name.endswith("_seed-3")


def test_jobs_inside_a_folder_of_the_study_are_found_there(tmp_path):
    study = Study(tmp_path)
    config = run_config(seed=1)
    (job,) = study.place([("seed=1", config)], "tuning/")
    assert job.folder == "tuning/seed-1"
    study.run_dir(job).parent.mkdir()
    finish(study, job, config)
    assert study.place([("other words", config)])[0].folder == "tuning/seed-1"


def test_a_name_can_be_typed_as_a_value_on_a_command_line():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = f"output_dir=S/{folder_name('adapter=lora adapter.alpha=-1 task=[a,b]')}"
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert override.value() == typed.partition("=")[2]


def test_jobs_of_one_name_have_folders_of_their_own(tmp_path):
    study = Study(tmp_path)
    first, second = study.place([("", run_config(seed=1)), ("", run_config(seed=2))])
    assert (first.folder, second.folder) == ("job", f"job-{second.digest[:6]}")


def test_settings_that_are_in_the_study_stay_in_their_folder_whatever_the_overrides(tmp_path):
    study = Study(tmp_path)
    (job,) = planned(study, 1)
    finish(study, job, run_config(seed=1))
    (again,) = Study(tmp_path).place([("adapter=x seed=1", run_config(seed=1))])
    assert again.folder == "seed-1"
    assert is_done(study, again)


def test_a_folder_with_other_settings_than_planned_is_not_that_job(tmp_path):
    study = Study(tmp_path)
    (job,) = planned(study, 1)
    finish(study, job, run_config(seed=7))
    assert not is_done(study, job)
    (again,) = study.place([("seed=1", run_config(seed=1))])
    assert again.folder == f"seed-1-{job.digest[:6]}"
    assert study.place([("x", run_config(seed=7))])[0].folder == "seed-1"


def test_a_run_to_be_extended_is_found_by_its_other_settings(tmp_path):
    study, config = Study(tmp_path), run_config(seed=1)
    (job,) = planned(study, 1)
    finish(study, job, config)
    extended = longer(config, 99)
    assert study.place([("seed=1", extended)])[0].folder == "seed-1"
    assert study.place([("seed=1", replace(extended, resume=None))])[0].folder != "seed-1"
    study.write(COMMAND, study.place([("seed=1", extended)]), {})
    assert [job.digest for job in study.jobs()] == [digest_of(extended)]


def test_a_run_to_be_extended_is_found_whatever_its_folder_is_called(tmp_path):
    study, config = Study(tmp_path), run_config(seed=1)
    (job,) = planned(study, 1)
    (refused,) = study.place([("seed=1 tracker=none", longer(config, 50))])
    study.write(COMMAND, [refused], {})  # a command that came before there was a run
    finish(study, job, config)
    extended = study.place([("seed=1 tracker=none", longer(config, steps)) for steps in (50, 99)])
    assert extended[0].folder == "seed-1"
    assert extended[1].folder != "seed-1"  # one run is not extended to two lengths


def test_a_run_that_a_command_lists_itself_is_not_extended(tmp_path):
    study, config = Study(tmp_path), run_config(seed=1)
    (job,) = planned(study, 1)
    finish(study, job, config)
    kept, new = study.place([("", replace(config, resume="extend")), ("", longer(config, 99))])
    assert kept.folder == "seed-1"
    assert new.folder != "seed-1"


def test_the_status_of_a_job_is_that_of_its_last_event(tmp_path):
    study = Study(tmp_path)
    jobs = planned(study, 1, 2, 3, 4)
    study.record(jobs[0], "started")
    study.record(jobs[1], "ended", exit_code=2, error="wrong", seconds=1.0)
    study.record(jobs[1], "started")
    study.record(jobs[1], "ended", exit_code=0, error=None, seconds=2.0, value=0.5)
    study.record(jobs[2], "ended", exit_code=130, error="signal 2", seconds=1.0)
    with (tmp_path / JOBS).open("a") as file:
        file.write('{"event": "ended", "dig')
    found = study.jobs()
    assert [job.status for job in found] == ["running", "completed", "interrupted", "waiting"]
    assert (found[1].value, found[1].error, found[1].seconds) == (0.5, None, 2.0)


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": [{"digest": "d", "overrides": "", "folder": "../../x"}]},
        {"jobs": [{"digest": "d", "overrides": "", "folder": "/x"}]},
        {"jobs": [{"digest": "d", "overrides": "", "folder": 7}]},
        {"jobs": ["x"]},
        {"of": []},
    ],
)
def test_a_study_of_a_stranger_is_read_by_a_schema(tmp_path, change):
    study = Study(tmp_path)
    planned(study, 1)
    path = tmp_path / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"study\.json: .*; remove .* to start anew"):
        study.jobs()


@pytest.mark.parametrize("code", ['"0"', "[]", "1e999"])
def test_an_event_that_holds_something_else_is_named(tmp_path, code):
    study = Study(tmp_path)
    (job,) = planned(study, 1)
    line = f'{{"digest": "{job.digest}", "event": "ended", "exit_code": {code}}}\n'
    (tmp_path / JOBS).write_text("[" * 10**5 + "\n" + line)
    with pytest.raises(UserError, match=r"jobs\.jsonl, line 2: 'exit_code' must be"):
        study.jobs()


def test_jobs_that_end_together_do_not_overwrite_each_other(tmp_path):
    study = Study(tmp_path)
    jobs = planned(study, *range(20))
    threads = [
        threading.Thread(
            target=study.record,
            args=(job, "ended"),
            kwargs={"exit_code": 1, "error": "x" * 500, "seconds": 1.0},
        )
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.status for job in study.jobs()] == ["failed"] * 20


def test_study_json_keeps_every_command_and_every_job(tmp_path):
    study = Study(tmp_path)
    planned(study, 1, 2)
    planned(study, 2, 3, model=["other"])
    study.write(COMMAND | {"time": "later"}, [], {})
    document = json.loads((tmp_path / "study.json").read_text())
    assert [entry["overrides"] for entry in document["jobs"]] == ["seed=1", "seed=2", "seed=3"]
    assert [command["time"] for command in document["commands"]] == [COMMAND["time"], "later"]
    assert document["of"] == {"model": ["other", "tiny"]}


def test_a_study_of_one_model_refuses_jobs_of_another_alone(tmp_path):
    study = Study(tmp_path)
    planned(study, 1)
    study.validate_same_study({"model": ["tiny", "other"]})
    with pytest.raises(UserError, match="another study: model=tiny there, other now; choose"):
        study.validate_same_study({"model": ["other"]})
    planned(study, 2, model=["other"])
    study.validate_same_study({"model": ["third"]})  # the model is what this study varies


def test_the_directory_of_a_single_run_is_no_study(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="is the directory of a single run"):
        Study(tmp_path).validate_same_study({})


def test_a_job_that_is_not_planned_is_named(tmp_path):
    study = Study(tmp_path)
    (job,) = planned(study, 1)
    assert study.find(job.digest).folder == job.folder
    with pytest.raises(UserError, match="is a setting taken from the environment"):
        study.find("0" * 64)


def test_no_further_job_starts_while_the_study_stops(tmp_path):
    study = Study(tmp_path)
    assert not study.stops()
    study.stop()
    assert study.stops()
    study.go_on()
    study.go_on()
    assert not study.stops()
