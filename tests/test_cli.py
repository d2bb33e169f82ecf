"""The console script: help, sweeps, and messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toplora_train import cli
from toplora_train.config.resolved import write_config
from toplora_train.launch.parent import JobResult
from toplora_train.run.prepare.own_table import with_table
from toplora_train.study import job as study_job

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "matplotlib", "wandb")
HELP_ALONE = ("hydra", "omegaconf", "pydantic", "yaml")  # what --help does without, too
CFG_ALONE = ("toplora_train.study", "toplora_train.report", "toplora_train.run", "rich.live")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call ``toplora-train`` in this process and an empty directory; the job itself is recorded."""
    jobs = []

    def record(config, **_) -> JobResult:
        jobs.append(config)
        code = call.codes.pop(0) if call.codes else 0
        if code == 0 and Path(config.output_dir).is_dir():
            resolved, _ = with_table(config)  # as a run's own folder holds it
            write_config(resolved, Path(config.output_dir) / "config.yaml")
            (Path(config.output_dir) / "report.json").write_text('{"status": "completed"}')
        return JobResult(code, Path(config.output_dir), 1.0, None if code == 0 else "it failed")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["toplora-train", *words])
        code = cli.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    call.jobs, call.codes = jobs, []
    monkeypatch.setattr(study_job, "run_job", record)
    monkeypatch.chdir(tmp_path)
    return call


def test_help_and_cfg_import_nothing_heavy(tmp_path, checkout):
    script = (
        "import sys; from toplora_train.cli import main\n"
        f"late = {{'--help': {HELP_ALONE}, '--version': {HELP_ALONE}, '--cfg': {CFG_ALONE}}}\n"
        "for words in (['--help'], ['--version'], ['--cfg', 'job']):\n"
        "    sys.argv[1:] = words\n"
        "    assert main() == 0, words\n"
        f"    heavy = [name for name in ({HEAVY} + late[words[0]]) if name in sys.modules]\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
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
    code, _, error = call("recipe=smoke", "output_dir=run")
    assert (code, call.jobs) == (2, [])
    assert "but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; start the command with" in error
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "here")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
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
    for _ in range(2):
        call("recipe=smoke")
    assert len({config.output_dir for config in call.jobs}) == 2


def test_the_given_folder_is_used(call, tmp_path):
    call("recipe=smoke", "output_dir=here", "data_root=mirror")
    assert call.jobs[0].output_dir == str(tmp_path / "here")
    assert call.jobs[0].data_root == str(tmp_path / "mirror")


@pytest.mark.parametrize(
    "code", [0, 143, *(pytest.param(code, marks=pytest.mark.slow) for code in (1, 2, 130))]
)
def test_the_jobs_exit_code_is_the_commands(call, code):
    call.codes = [code]
    assert call("recipe=smoke")[0] == code


def test_a_single_run_leaves_no_hydra_files(call, tmp_path):
    call("recipe=smoke", "output_dir=run")
    assert list(tmp_path.iterdir()) == []


def names(call) -> list[str]:
    return [Path(config.output_dir).name for config in call.jobs]


def test_a_sweep_runs_every_combination_each_in_its_folder(call, tmp_path):
    code, shown, _ = call("-m", "recipe=smoke", "adapter=lora,toplora", "adapter.r=2,4")
    assert code == 0
    pairs = [(config.adapter["name"], config.adapter["r"]) for config in call.jobs]
    assert pairs == [("lora", 2), ("lora", 4), ("toplora", 2), ("toplora", 4)]
    folders = [Path(config.output_dir) for config in call.jobs]
    assert len({folder.parent for folder in folders}) == 1
    assert folders[0].parent.parent == tmp_path / "multirun"
    assert folders[2].name == "adapter-toplora_adapter.r-2"
    assert call.jobs[2].command == "toplora-train recipe=smoke adapter=toplora adapter.r=2"
    assert "4 of 4 jobs completed" in shown


def test_only_what_is_swept_over_is_in_the_names_however_long_the_rest_is(call):
    rest = ["dataset.train=" + "/a/long/path" * 20 + ".jsonl", "dataset=jsonl"]
    code, shown, _ = call("-m", *rest, "recipe=smoke", "seed=1,2", "output_dir=sweep")
    assert code == 0
    assert names(call) == ["seed-1", "seed-2"]
    assert "job 1 of 2: seed=1\n" in shown
    assert "a/long/path" not in shown


def test_jobs_with_the_same_settings_are_one_job_and_said_to_be(call):
    _, shown, _ = call("-m", "recipe=smoke", "data_root=/a,/b", "seed=1,1")
    assert len(call.jobs) == 1
    assert "3 of 4 jobs repeat the settings of another: run once" in shown


def test_the_same_command_continues_its_sweep_and_runs_what_is_not_completed(call, tmp_path):
    words = ["-m", "recipe=smoke", "seed=1,2", "adapter=lora"]
    call.codes = [0, 1]
    assert call(*words)[0] == 1
    code, shown, _ = call(*words)
    assert code == 0
    assert names(call) == ["seed-1", "seed-2", "seed-2"]
    assert "1 of 2 jobs completed; for a new study give output_dir=DIR" in shown
    assert "2 of 2 jobs completed" in shown
    assert len(list((tmp_path / "multirun").iterdir())) == 1
    call("-m", "recipe=smoke", "seed=1,2", "adapter=dora")
    assert len(list((tmp_path / "multirun").iterdir())) == 2


def test_values_and_keys_added_later_extend_a_sweep(call):
    call("-m", "recipe=smoke", "seed=1,2", "output_dir=S")
    call("-m", "recipe=smoke", "seed=1,2,3", "output_dir=S", "resume=auto")
    call("-m", "recipe=smoke", "seed=1,2", "adapter=toplora,lora", "output_dir=S")
    added = [f"seed-{seed}_adapter-lora" for seed in (1, 2)]
    assert names(call) == ["seed-1", "seed-2", "seed-3", *added]


def test_a_study_of_ones_own_table_is_continued(call, tmp_path):
    rows = [f"text {row},{row % 2}" for row in range(40)]
    (tmp_path / "mine.csv").write_text("\n".join(["review,stars", *rows]))
    table = ["dataset=table", "dataset.train=mine.csv", "dataset.text=review"]
    words = ["-m", "model=minilm_l6", *table, "dataset.label=stars", "seed=1,2", "output_dir=S"]
    assert call(*words)[0] == 0
    code, shown, _ = call(*words)
    assert code == 0
    assert names(call) == ["seed-1", "seed-2"]
    assert "2 of 2 jobs completed" in shown


def test_other_common_settings_do_not_touch_the_jobs_of_before(call):
    call("-m", "recipe=smoke", "seed=1,2", "output_dir=S")
    call("-m", "recipe=smoke", "seed=1", "trainer.max_steps=3", "output_dir=S")
    call("-m", "recipe=smoke", "seed=1,2", "trainer.max_steps=3", "output_dir=S")
    first, second, job, third = names(call)
    assert (first, second, job) == ("seed-1", "seed-2", "job")
    assert third.startswith("seed-2-")


def test_another_study_is_not_continued(call):
    call("-m", "recipe=smoke", "seed=1,2", "output_dir=S")
    code, _, error = call("-m", "recipe=smoke", "model=smollm2_135m", "seed=1,2", "output_dir=S")
    assert code == 2
    assert "S is another study: model=tiny there, HuggingFaceTB/SmolLM2-135M" in error
    assert len(call.jobs) == 2


def test_a_failed_job_leaves_the_others_running_and_shows_in_the_exit_code(call):
    call.codes = [0, 1, 2]
    code, shown, _ = call("-m", "recipe=smoke", "seed=1,2,3")
    assert code == 1
    assert [config.seed for config in call.jobs] == [1, 2, 3]
    assert "failed seed=2: it failed" in shown
    assert "1 of 3 jobs completed" in shown
    call.codes = [0, 2]
    assert call("-m", "recipe=smoke", "seed=1,2")[0] == 2


def test_all_jobs_failed(call):
    call.codes = [1, 1]
    code, shown, _ = call("-m", "recipe=smoke", "seed=1,2")
    assert code == 1
    assert "all 2 jobs failed" in shown


def test_a_wrong_value_fails_its_job_alone(call):
    code, shown, error = call("-m", "recipe=smoke", "optimizer.lr=-1,1e-3", "output_dir=S")
    assert code == 2
    assert names(call) == ["optimizer.lr-0.001"]
    assert error == "error: optimizer.lr=-1: optimizer.lr must be greater than 0, not -1\n"
    assert "failed optimizer.lr=-1: optimizer.lr must be" in shown


def test_a_key_that_an_adapter_lacks_fails_its_job_alone_before_the_others_start(call):
    words = ["recipe=smoke", "adapter=lora,toplora", "adapter.gate.enabled=true,false"]
    code, _, error = call("-m", *words)
    assert code == 2
    assert [config.adapter["name"] for config in call.jobs] == ["toplora"] * 2
    first = "error: adapter=lora adapter.gate.enabled=True: unknown key 'adapter.gate.enabled'"
    assert error.startswith(first)


@pytest.mark.parametrize("words", [["adapter.rnak=4"], ["adapter.rnak=4,8"]])
def test_an_unknown_key_stops_a_sweep_before_its_first_job(call, words):
    code, _, error = call("-m", "recipe=smoke", "seed=1,2", *words)
    assert (code, call.jobs) == (2, [])
    assert error == "error: unknown key 'adapter.rnak'; did you mean 'adapter.r'?\n"


@pytest.mark.parametrize("code", [130, 143])
def test_an_interruption_ends_the_sweep_and_says_how_to_go_on(call, code):
    call.codes = [0, code]
    done, shown, _ = call("-m", "recipe=smoke", "seed=1,2,3")
    assert done == code
    assert len(call.jobs) == 2
    assert "1 of 3 jobs completed" in shown
    command = "toplora-train -m recipe=smoke seed=1,2,3"
    assert f"interrupted; the same command goes on with the others: {command}" in shown


def test_planning_a_sweep_leaves_no_folder(call, tmp_path):
    call.codes = [0, 2]
    assert call("-m", "recipe=smoke", "seed=1,2", "plan=true")[0] == 2
    assert [config.seed for config in call.jobs] == [1, 2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=zzz"], "hydra/launcher=zzz is not known; there are basic, joblib"),
        (["output_dir=a,b"], "output_dir is the folder of the whole sweep; give one folder"),
    ],
)
def test_a_sweep_that_cannot_start_is_one_line(call, words, message):
    code, _, error = call("-m", "recipe=smoke", "seed=1,2", *words)
    assert (code, call.jobs) == (2, [])
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_ctrl_c_before_any_job_is_no_traceback(call, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study_job, "run_config", interrupted)
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
