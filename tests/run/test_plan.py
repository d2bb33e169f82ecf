import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from toplora_train import cli
from toplora_train.config.check import check
from toplora_train.config.locate import options
from toplora_train.config.schema import DatasetSettings, ModelSettings, TaskSettings
from toplora_train.models.known import SHIPPED, known_model
from toplora_train.models.memory import peak_resident_memory
from toplora_train.models.tiny import tiny_config
from toplora_train.report.plan import show_plan
from toplora_train.run import plan
from toplora_train.run.plan import make_plan
from toplora_train.run.prepare.inputs import find_model, find_rows
from toplora_train.run.prepare.plan_target import find_target
from toplora_train.run.prepare.run_data import prepare

NOWHERE = "nyu-mll/glue"  # not in an empty cache


@pytest.fixture(autouse=True)
def _few_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting every adapter is most of a plan's cost, and tested in test_alternatives.py."""
    monkeypatch.setattr("toplora_train.run.assemble.adapter_costs.ADAPTERS", ("lora",))


def planned(config):
    return make_plan(config, find_target(config))


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def away(name: str) -> DatasetSettings:
    """LLM-Adapters' file of that name, which is not in an empty cache."""
    return DatasetSettings(name=name, train=f"llm-adapters:ft-training_set/{name}.json")


def boolq() -> dict[str, TaskSettings]:
    source = "llm-adapters:dataset/boolq/test.json"
    return {"boolq": TaskSettings(name="boolq", source=source)}


def test_the_plan_counts_what_training_would_do(make_run):
    made = planned(make_run())
    # r n + m r + n r + r for each of q, k, v in two layers: n 64, m 64, 32, 32
    assert made.parameters.trainable == {
        "q_proj": 2 * (8 * 64 + 64 * 8 + 64 * 8 + 8),
        "k_proj": 2 * (8 * 64 + 32 * 8 + 64 * 8 + 8),
        "v_proj": 2 * (8 * 64 + 32 * 8 + 64 * 8 + 8),
    }
    assert made.steps == 4
    assert made.tests == {"arithmetic": 3}
    assert made.unknown == []
    text = "".join(token for token, _ in made.tokens.examples[0])
    learned = "".join(token for token, is_learned in made.tokens.examples[0] if is_learned)
    assert text.endswith(learned)
    assert learned.endswith("<eos>")
    assert "### Response" not in learned


def test_the_plan_is_shown_and_nothing_is_written(make_run, tmp_path, capsys):
    plan.run(make_run())
    shown = capsys.readouterr().out
    assert "nothing was trained" in shown
    assert "q_proj" in shown
    assert "made in code" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_least_time_is_written_for_a_study_if_it_is_known(make_run, tmp_path):
    plan.run(make_run(), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    made = planned(make_run())
    assert report["planned_seconds"] == pytest.approx(made.work.seconds, rel=10)  # it is measured
    assert report["planned_seconds"] > 0


def test_a_log_shows_the_mask_too(make_run):
    console = Console(file=StringIO(), width=100)
    show_plan(planned(make_run()), console)
    assert re.search(r"\[\d", console.file.getvalue())  # the answer begins with a number


def test_the_plan_shows_the_time_of_the_products_alone(make_run):
    made = planned(make_run())
    body = made.parameters.base - 2 * 258 * 64  # the embeddings on both sides
    assert made.work.flops > 4 * body * made.tokens.total
    assert made.work.flops_per_second > 0
    assert made.work.bound is None


def test_the_plan_of_this_machines_cpu_counts_the_process_itself(make_run):
    (memory, *_) = planned(make_run()).work.memory
    assert 50 * 2**20 < memory.parts["process"] < 1.01 * peak_resident_memory()
    assert memory.evaluation > memory.parts["process"]


@pytest.mark.usefixtures("empty_caches")
def test_without_the_rows_their_published_number_gives_the_steps_and_the_length_limit_a_bound(
    make_run,
):
    config = make_run(dataset=away("commonsense_170k"), task=boolq())
    config = replace(config, trainer=replace(config.trainer, max_steps=None, epochs=3))
    config = replace(config, evaluation=replace(config.evaluation, limit=None))
    made = planned(config)
    assert (made.rows, made.steps) == (170_420, 3 * -(-170_420 // 8))
    assert made.tests == {"boolq": 3_270}
    assert made.tokens is None
    assert "until the rows are available" in made.unknown[0]
    assert made.work.bound.startswith("every row at dataset.max_length=256 tokens")
    here = planned(make_run())
    assert made.parameters.trainable == here.parameters.trainable


@pytest.mark.parametrize("length", [{"max_steps": 4}, {"max_steps": None, "epochs": 2}])
def test_what_is_counted_stays_below_the_bound(make_run, length):
    config = make_run()
    config = replace(config, trainer=replace(config.trainer, **length))
    counted, bound = plan._counted(config, prepare(config)), plan._bounded(config, rows=20)
    assert len(counted.lengths) <= len(bound.lengths)
    assert sum(counted.lengths) <= sum(bound.lengths)
    assert counted.longest <= bound.longest
    assert counted.supervised <= bound.supervised


@pytest.mark.usefixtures("empty_caches")
def test_a_share_is_held_out_of_the_published_number_of_rows(make_run):
    config = make_run(dataset=replace(away("math_10k"), validation_share=0.1), task=boolq())
    made = planned(config)
    assert (made.rows, made.validation_rows) == (9_919 - 992, 992)
    assert made.steps == 4  # as trainer.max_steps says


@pytest.mark.usefixtures("empty_caches")
def test_an_unknown_model_leaves_parameters_and_memory_unknown(make_run):
    config = make_run(model=ModelSettings(name="x", path="nobody/nothing"))
    made = planned(config)
    assert (made.parameters, made.work, made.tokens) == (None, None, None)
    assert (made.rows, made.tests) == (20, {"arithmetic": 3})  # these are local, and read
    assert "until the tokenizer" in made.unknown[0]
    assert "nobody/nothing" in made.unknown[1]


@pytest.mark.usefixtures("empty_caches")
def test_a_local_configuration_takes_precedence_over_the_shipped_shape(make_run, tmp_path: Path):
    path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    model = ModelSettings(name="x", path=path)
    adapter = make_run().adapter | {"target_modules": ["q_proj"], "layers_to_transform": [0]}
    config = replace(make_run(model=model), adapter=adapter)
    made = planned(config)
    assert made.parameters.base == 134_515_008
    assert SHIPPED in made.parameters.model
    cache = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("c0ffee")
    tiny_config().save_pretrained(cache / "snapshots" / "c0ffee")
    made = planned(config)
    assert "local config.json, c0ffee" in made.parameters.model
    assert made.parameters.base < 1_000_000


@pytest.mark.usefixtures("empty_caches")
def test_a_head_is_planned_without_tokenizer_and_rows(make_run):
    task = TaskSettings(
        name="rte",
        source=NOWHERE,
        subset="rte",
        split="validation",
        kind="classify",
        text="sentence1",
        choices=["yes", "no"],
    )
    config = make_run(task={"rte": task}, dataset=DatasetSettings(name="glue", train="task:train"))
    config = replace(config, model=ModelSettings(name="m", path="FacebookAI/roberta-base"))
    config = replace(config, adapter=config.adapter | {"target_modules": ["query", "value"]})
    made = planned(config)
    assert made.rows == 2_490
    assert made.tests == {"rte": 3}
    assert "classifier" in made.parameters.trainable


@pytest.mark.usefixtures("empty_caches")
# Those of SmolLM2 read the weights of an installed package once, which takes 20 s.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("smollm2") else [])
        for name in options("recipe")
        if name not in ("vit_base_images", "digits_tiny_vit")  # their images are the user's
    ],
)
def test_a_recipes_inputs_are_known_before_they_are_downloaded(name, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["toplora-train", f"recipe={name}", "--cfg", "job", "--resolve"]
    )
    assert cli.main() == 0
    values = yaml.safe_load(capsys.readouterr().out)
    config = check({**values, "output_dir": "nowhere"})
    sources, base = find_rows(config), find_model(config.model)
    counts = plan._count_rows(config, sources, None)
    assert counts.training or config.trainer.max_steps
    assert all(counts.tests.values())
    assert config.task.keys() == counts.tests.keys()
    assert base.location is not None or known_model(base.model) is not None


def test_planning_for_another_device_uses_its_published_speed_and_memory(
    make_run,
):
    config = make_run(plan=True, plan_for="a100-80g")
    made = planned(config)
    assert made.work.flops_per_second == 19.5e12
    assert made.work.capacity == 80e9
    assert "a100-80g" in made.work.device
    assert made.work.memory[0].parts["process"] == 0
    assert [column.setting for column in made.work.memory] == [
        "1 device",
        "8, ddp",
        "8, zero2",
        "8, fsdp2",
    ]


@pytest.mark.slow  # every adapter is counted on 32 layers
def test_a_published_recipe_is_planned_by_the_command_in_an_empty_home(tmp_path: Path):
    words = ["recipe=llama3_commonsense", "plan=true", "plan_for=a100-80g"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("TOPLORA_CACHE", "HF_HOME", "XDG_CACHE_HOME", "TOPLORA_SHARED")
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "toplora-train", *words],
        env=environment | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for part in [
        "model: meta-llama/Meta-Llama-3-8B; 15.0 GiB, licence llama3, gated: request access at",
        "commonsense_170k.json; 170,420 rows",
        "shape shipped with toplora-train",
        "8,030,261,248",
        "31,956",  # steps: 3 epochs of ceil(170,420 / 16)
        "unknown until the rows and the tokenizer are available",
        "On several devices: toplora-train recipe=llama3_commonsense",
    ]:
        assert part in text, part
    for task, rows in {
        "boolq": "3,270",
        "piqa": "1,838",
        "social_i_qa": "1,954",
        "hellaswag": "10,042",
        "winogrande": "1,267",
        "arc_easy": "2,376",
        "arc_challenge": "1,172",
        "openbookqa": "500",
    }.items():
        assert re.search(rf"test rows of {task} +│ +{rows} ", text), task
    assert not (tmp_path / "runs").exists()
