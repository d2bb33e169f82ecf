"""The commands as a user types them, in processes.

A process that has to import torch costs ten times what its run does, so only what depends on a
process of its own is one; for the others this process is the parent, and their workers its forks.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from tests.cases.warm import ForkedWorkers
from toplora_train import cli
from toplora_train.evaluation.decoding.decode import generate
from toplora_train.launch import parent
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

COMMAND = [sys.executable, "-m", "toplora_train.cli"]
REPORT_KEYS = {
    "": "schema_version status recipe seed command protocol_hash model adapter data train tasks "
    "average reload environment",
    "model": "path revision parameters dtype",
    "adapter": "name peft_type trainable_parameters mergeable settings",
    "data": "source rows sha256 truncated_rows supervised_tokens contamination",
    "train": "steps epochs loss_first loss_last tokens padding_fraction seconds tokens_per_second "
    "peak_memory_bytes world_size mixed_precision",
    "reload": "max_abs_logit_difference missing unexpected",
}
SLOW = 3600  # seconds that several jobs may take on a busy machine
TASK_KEYS = "metric value n ci95 base_value majority_value seconds"


def toplora_train(
    folder: Path, *arguments: str, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


@pytest.fixture
def call(monkeypatch, capfd):
    """Call ``toplora-train`` in this process, whose forks are the workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the workers; and a fork has no threads of its parent's
    monkeypatch.setattr(parent, "subprocess", ForkedWorkers)

    def call(folder: Path, *words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["toplora-train", *words])
        capfd.readouterr()
        return cli.main(), *capfd.readouterr()

    yield call
    torch.set_num_threads(threads)


@pytest.fixture(
    scope="module",
    params=["toplora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora", "dora"))],
)
def smoke(request, tmp_path_factory) -> tuple[Path, list[str], subprocess.CompletedProcess]:
    """The folder and the words of a finished run of the smoke recipe, and how it ended."""
    folder = tmp_path_factory.mktemp(request.param)
    words = ["recipe=smoke", f"adapter={request.param}", "optimizer.lr=1e-2", "output_dir=run"]
    return folder, words, toplora_train(folder, *words)


def test_the_smoke_recipe_completes_with_every_adapter(smoke, call):
    folder, words, done = smoke
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "run" / "report.json").read_text())
    for part, keys in REPORT_KEYS.items():
        assert set(keys.split()) <= (report[part] if part else report).keys()
    assert set(TASK_KEYS.split()) <= report["tasks"]["arithmetic"].keys()
    assert report["status"] == "completed"
    assert f"adapter={report['adapter']['name']}" in words
    assert report["reload"]["max_abs_logit_difference"] <= 1e-6
    assert "report.html" in done.stdout
    cost = report["train"]
    if "using oneDNN" not in (folder / "run" / "train.log").read_text():  # its kernels come on top
        assert cost["planned_memory_bytes"] == pytest.approx(cost["peak_memory_bytes"], rel=0.15)

    before = weights(folder)
    code, _, error = call(folder, *words)
    assert code == 2
    assert "output_dir" in error
    assert weights(folder) == before, "a finished run was overwritten"


@pytest.mark.usefixtures("call")
def test_the_adapter_loads_in_another_process_to_the_logits_of_the_training_one(smoke):
    run = smoke[0] / "run"
    lines = (run / "predictions" / "arithmetic.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert len(predictions) == 16
    model = PeftModel.from_pretrained(tiny_model(), run / "adapter")
    tokenizer = tiny_tokenizer()
    prompts = [tokenizer(p["prompt"])["input_ids"] for p in predictions]
    for one in generate(model, tokenizer, prompts, max_new_tokens=32, batch_size=1):
        assert one.text == predictions[one.index]["output"]
    with model.disable_adapter():
        base = model(torch.tensor(prompts[:1])).logits
    assert not torch.equal(base, model(torch.tensor(prompts[:1])).logits)


TWO_EPOCHS = [
    "recipe=smoke",
    "adapter.dropout=0.1",
    "trainer.max_steps=12",  # 8 steps are an epoch
    "trainer.save_every=5",
    "evaluation.base=false",
    "evaluation.limit=2",
    "output_dir=run",
]


def weights(folder: Path) -> bytes:
    return (folder / "run" / "adapter" / "adapter_model.safetensors").read_bytes()


def interrupt(folder: Path, signum: int, *, after_step: int) -> int:
    """Start the run, send ``signum`` once ``after_step`` is logged, and wait for its end."""
    with subprocess.Popen(
        [*COMMAND, *TWO_EPOCHS],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"step {after_step}/"):
                process.send_signal(signum)
                break
        process.stdout.read()
    return process.returncode


@pytest.mark.parametrize(
    ("signum", "after_step", "exit_code"),
    [
        # Step 11 is in the second epoch, and after the checkpoint of step 10.
        (signal.SIGKILL, 11, -signal.SIGKILL),
        pytest.param(signal.SIGINT, 9, 130, marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_an_interrupted_run_end_byte_for_byte_like_an_uninterrupted_one(
    tmp_path: Path, call, signum: int, after_step: int, exit_code: int
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    code, _, error = call(whole, *TWO_EPOCHS)
    assert code == 0, error

    assert interrupt(stopped, signum, after_step=after_step) == exit_code
    code, shown, error = retry_while_locked(call, stopped)
    assert code == 0, error
    assert "resuming after step" in shown
    assert weights(stopped) == weights(whole)
    lines = (stopped / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))


def retry_while_locked(call, folder: Path) -> tuple[int, str, str]:
    """A killed parent's worker ends when it notices; until then the directory is in use."""
    for _ in range(20):
        resumed = call(folder, *TWO_EPOCHS, "resume=auto")
        if "in use" not in resumed[2]:
            break
        time.sleep(0.5)
    return resumed


SWEEP = [
    "recipe=smoke",
    "adapter=lora,toplora",
    "trainer.max_steps=2",
    "evaluation.limit=2",
    "evaluation.base=false",
]


def test_a_sweep_runs_every_job_and_a_failed_one_leaves_the_others(tmp_path: Path, call):
    code, shown, error = call(tmp_path, "-m", *SWEEP, "adapter.r=0,2", "output_dir=sweep")
    assert code == 2
    assert "2 of 4 jobs completed" in shown
    assert error.count("r must be") == 2
    reports = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("sweep/*/report.json"))]
    assert [report["status"] for report in reports] == ["failed", "completed"] * 2
    assert "r must be" in reports[0]["error"]
    code, shown, _ = call(tmp_path, "-m", *SWEEP, "adapter.r=2", "output_dir=sweep")
    assert code == 0
    assert "job 1 of" not in shown  # both are completed
    assert "Leaderboard" in shown


STUDY = [
    "study=lr_per_adapter",
    "study.rates=[1e-4,1e-2]",
    "study.tuning_seeds=[1]",
    "study.seeds=[11]",
    *SWEEP,
    "dataset.validation_rows=8",
    "output_dir=S",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study in two phases, run by the plain launcher."""
    folder = tmp_path_factory.mktemp("plain")
    done = toplora_train(folder, *STUDY, timeout=SLOW)
    assert done.returncode == 0, done.stderr
    return folder / "S"


@pytest.mark.slow
@pytest.mark.timeout(SLOW)
def test_a_study_tunes_every_adapter_then_compares_runs_of_fresh_seeds(study: Path):
    tuning = [json.loads(path.read_text()) for path in study.glob("tuning/*/report.json")]
    final = [json.loads(path.read_text()) for path in study.glob("*/report.json")]
    assert [report["tasks"] for report in tuning] == [{}] * 4
    assert [report["seed"] for report in final] == [11, 11]
    document = json.loads((study / "comparison" / "comparison.json").read_text())
    curves = document["learning_rates"]["curves"]
    assert curves.keys() == {"lora", "toplora"}
    assert {method["name"] for method in document["methods"]} <= {
        f"{name} optimizer.lr={curve['best']}" for name, curve in curves.items()
    } | curves.keys()


@pytest.mark.slow
@pytest.mark.timeout(2 * SLOW)
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_hydras_other_launchers_run_a_study_to_the_same_adapters(tmp_path: Path, study, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    done = toplora_train(tmp_path, *STUDY, f"hydra/launcher={launcher}", timeout=SLOW)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 jobs completed" in done.stdout
    weights = sorted(study.rglob("adapter/adapter_model.safetensors"))
    assert len(weights) == 6
    for path in weights:
        other = tmp_path / "S" / path.relative_to(study)
        assert other.read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(SLOW)
def test_an_interrupted_search_proposes_its_completed_trials_again(tmp_path: Path):
    words = ["recipe=smoke", "adapter=lora", "trainer.max_steps=2", "evaluation.base=false"]
    words += ["evaluation.limit=2", "dataset.validation_rows=8", "hydra/sweeper=optuna"]
    for trials in (2, 3):
        done = toplora_train(
            tmp_path,
            "-m",
            *words,
            f"hydra.sweeper.n_trials={trials}",
            "output_dir=search",
            timeout=SLOW,
        )
        assert done.returncode == 0, done.stderr
        assert f"{trials} of {trials} jobs completed" in done.stdout
        assert "on the held-out rows" in done.stdout
    lines = (tmp_path / "search" / "jobs.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) == 6  # three trials started and ended, none twice


@pytest.mark.slow  # tests/report/trackers/test_wandb.py tests the same without the command
def test_wandb_keeps_every_logged_number_offline(tmp_path: Path):
    done = toplora_train(
        tmp_path,
        "recipe=smoke",
        "tracker=wandb",
        "evaluation.base=false",
        "output_dir=run",
        WANDB_MODE="offline",
    )
    assert done.returncode == 0, done.stderr
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    from tests.report.trackers.test_wandb import history

    logged = {int(row["step"]): row for row in history(offline) if "step" in row}
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        assert logged[metrics["step"]]["loss"] == pytest.approx(metrics["loss"])
        numbers = {key for key, value in metrics.items() if not isinstance(value, str)}
        assert numbers <= logged[metrics["step"]].keys()


ONCE_IN_FULL = [(["dataset=jsonl", "dataset.train=broken.jsonl"], "broken.jsonl, line 2")]
AS_WELL = [  # the same code path; each error has its own test where it is raised
    (["adapter.target_modules=[quary]"], "q_proj"),
    (["dataset=jsonl", "dataset.train=none.jsonl"], "none.jsonl"),
    (["dataset=jsonl", "dataset.train=empty.jsonl"], "empty.jsonl"),
    (["dataset=jsonl", "dataset.train=typed.jsonl"], "instruction"),
    (["adapter.r=0"], "adapter.r must be"),
    (["optimizer.lr=-1"], "optimizer.lr"),
    (["model=smollm2_135m", "model.path=nobody/nothing", "model.package=null"], "offline"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [*ONCE_IN_FULL, *(pytest.param(*case, marks=pytest.mark.slow) for case in AS_WELL)],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line_and_exit_code_2(tmp_path: Path, call, arguments, message):
    (tmp_path / "broken.jsonl").write_text('{"instruction": "1?", "output": "1"}\n{"instruction"\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "typed.jsonl").write_text('{"instruction": ["1?"], "output": "1"}\n')
    code, shown, error = call(tmp_path, "recipe=smoke", *arguments, "output_dir=run")
    assert code == 2, (shown, error)
    assert message.lower() in error.lower()
    assert "Traceback" not in error + shown
    assert len(error.strip().splitlines()) == 1
