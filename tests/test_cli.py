"""The console script: help, sweeps, and messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toplora_train import cli
from toplora_train.launch.parent import JobResult

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "matplotlib", "wandb")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call ``toplora-train`` in this process and an empty directory; the job itself is recorded."""
    jobs = []

    def record(config) -> JobResult:
        jobs.append(config)
        code = call.codes.pop(0) if call.codes else 0
        return JobResult(code, Path(config.output_dir), 1.0, None if code == 0 else "it failed")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["toplora-train", *words])
        code = cli.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    call.jobs, call.codes = jobs, []
    monkeypatch.setattr(cli, "run_job", record)
    monkeypatch.chdir(tmp_path)
    return call


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["--cfg", "job"]])
def test_help_and_cfg_import_nothing_heavy(tmp_path, checkout, words):
    script = (
        "import sys; from toplora_train.cli import main; code = main()\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_help_and_version(call):
    code, page, _ = call("--help")
    assert code == 0
    assert "toplora-train recipe=smoke" in page
    assert call("recipe=smoke", "-h")[1] == page
    assert call("--version")[1].startswith("toplora-train ")


def test_a_launchers_processes_need_a_common_folder(call, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, error = call("recipe=smoke")
    assert (code, call.jobs) == (2, [])
    assert "give output_dir=DIR" in error
    assert call("recipe=smoke", "output_dir=run")[0] == 0


def test_a_run_goes_into_a_new_folder_below_runs(call, tmp_path):
    assert call("recipe=smoke", "adapter=lora")[0] == 0
    (config,) = call.jobs
    run_dir = Path(config.output_dir)
    assert run_dir.parent == tmp_path / "runs"
    assert run_dir.name.endswith("-smoke-lora")
    assert config.recipe == "smoke"
    assert config.command == "toplora-train recipe=smoke adapter=lora"


def test_a_run_without_a_recipe_is_named_after_its_dataset(call):
    call("dataset=jsonl", "dataset.train=a b.jsonl")
    (config,) = call.jobs
    assert config.output_dir.endswith("-jsonl-toplora")
    assert config.recipe is None
    assert config.command == "toplora-train dataset=jsonl 'dataset.train=a b.jsonl'"


def test_two_runs_of_the_same_second_have_two_folders(call):
    for _ in range(3):
        call("recipe=smoke")
        Path(call.jobs[-1].output_dir).mkdir(parents=True)
    assert len({config.output_dir for config in call.jobs}) == 3


def test_the_given_folder_is_used(call, tmp_path):
    call("recipe=smoke", "output_dir=here", "data_root=mirror")
    assert call.jobs[0].output_dir == str(tmp_path / "here")
    assert call.jobs[0].data_root == str(tmp_path / "mirror")


@pytest.mark.parametrize("code", [0, 1, 2, 130, 143])
def test_the_jobs_exit_code_is_the_commands(call, code):
    call.codes = [code]
    assert call("recipe=smoke")[0] == code


def test_a_single_run_leaves_no_hydra_files(call, tmp_path):
    call("recipe=smoke")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_runs_every_combination_each_in_its_folder(call, tmp_path):
    code, shown, _ = call("-m", "recipe=smoke", "adapter=lora,toplora", "adapter.r=2,4")
    assert code == 0
    pairs = [(config.adapter["name"], config.adapter["r"]) for config in call.jobs]
    assert pairs == [("lora", 2), ("lora", 4), ("toplora", 2), ("toplora", 4)]
    folders = [Path(config.output_dir) for config in call.jobs]
    assert len({folder.parent for folder in folders}) == 1
    assert folders[0].parent.parent == tmp_path / "multirun"
    assert folders[2].name == "2-adapter.r-2_adapter-toplora"
    assert call.jobs[2].command == "toplora-train recipe=smoke adapter=toplora adapter.r=2"
    assert "4 jobs" in shown


def test_only_what_is_swept_over_is_in_the_names_however_long_the_rest_is(call):
    rest = ["dataset.train=" + "/a/long/path" * 20 + ".jsonl", "dataset=jsonl"]
    code, shown, _ = call("-m", *rest, "recipe=smoke", "seed=1,2", "output_dir=sweep")
    assert code == 0
    assert [Path(config.output_dir).name for config in call.jobs] == ["0-seed-1", "1-seed-2"]
    assert "job 0: seed=1\n" in shown
    assert "a/long/path" not in shown


def test_jobs_whose_swept_values_are_cut_or_alike_have_folders_of_their_own(call):
    long = "/x" * 100
    call("-m", "recipe=smoke", f"data_root={long}a,{long}b", "seed=1,1")
    names = [Path(config.output_dir).name for config in call.jobs]
    assert len(set(names)) == 4
    assert all(len(name.encode()) <= 255 and "/" not in name for name in names)
    assert names[0].startswith("0-data_root-")


def test_a_sweep_over_one_value_has_its_number(call):
    call("-m", "recipe=smoke", "seed=3", "adapter=lora")
    assert [Path(config.output_dir).name for config in call.jobs] == ["0"]


def test_a_sweep_goes_into_the_given_folder_and_again_into_the_same_ones(call, tmp_path):
    words = ["-m", "recipe=smoke", "seed=1,2", "output_dir=sweep"]
    call(*words)
    call(*words, "resume=auto")
    folders = [Path(config.output_dir) for config in call.jobs]
    assert folders[0].parent == tmp_path / "sweep"
    assert folders[:2] == folders[2:]


def test_a_failed_job_leaves_the_others_running_and_shows_in_the_exit_code(call):
    call.codes = [0, 1, 2]
    code, shown, _ = call("-m", "recipe=smoke", "seed=1,2,3,4")
    assert code == 1
    assert [config.seed for config in call.jobs] == [1, 2, 3, 4]
    assert "job 1 seed=2: it failed" in shown
    call.codes = [0, 2]
    assert call("-m", "recipe=smoke", "seed=1,2")[0] == 2


def test_a_wrong_value_fails_its_job_alone(call):
    code, shown, error = call("-m", "recipe=smoke", "optimizer.lr=-1,1e-3")
    assert code == 2
    assert len(call.jobs) == 1
    assert error == "error: optimizer.lr must be greater than 0, not -1\n"
    assert "failed" in shown


def test_an_unknown_key_stops_a_sweep_before_its_first_job(call):
    code, _, error = call("-m", "recipe=smoke", "seed=1,2", "adapter.rnak=4")
    assert (code, call.jobs) == (2, [])
    assert error == "error: unknown key 'adapter.rnak'; did you mean 'adapter.r'?\n"


@pytest.mark.parametrize("code", [130, 143])
def test_an_interruption_ends_the_sweep(call, code):
    call.codes = [0, code]
    done, shown, _ = call("-m", "recipe=smoke", "seed=1,2,3,4")
    assert done == code
    assert len(call.jobs) == 2
    assert "2 jobs" in shown


def test_a_sweep_by_another_process_is_read_from_its_list(call, tmp_path):
    call("-m", "recipe=smoke", "seed=1,2", "output_dir=sweep")
    lines = (tmp_path / "sweep" / "jobs.jsonl").read_text().splitlines()
    assert [json.loads(line)["exit_code"] for line in lines] == [0, 0]


def test_ctrl_c_before_any_job_is_no_traceback(call, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_config", interrupted)
    assert call("recipe=smoke") == (130, "", "")


def test_cfg_shows_what_would_be_used(call):
    code, shown, _ = call("recipe=smoke", "--cfg", "job", "optimizer.lr=3e-4")
    assert code == 0
    assert "lr: 0.0003" in shown
    assert "builtin: tiny" in shown
    assert call.jobs == []


def test_hydras_own_commands_work(call):
    assert "recipe/smoke" in call("recipe=smoke", "--info", "defaults")[1]
    assert "schedule: linear" in call("--cfg", "job", "--package", "optimizer")[1]
    assert "hydra" in call("--cfg", "hydra")[1]


def test_a_mistake_is_found_from_any_directory_by_the_real_command(tmp_path, checkout):
    done = subprocess.run(
        [sys.executable, "-m", "toplora_train.cli", "+adapter.rnak=4"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: unknown key 'adapter.rnak'; did you mean 'adapter.r'?\n"
    assert done.stdout == ""
