import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.run.conftest import tiny_run
from toplora_train.config.again import evaluation_config
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import read_config, write_config
from toplora_train.config.schema import ModelSettings, ReportSettings
from toplora_train.contract.subject import shaken
from toplora_train.evaluation.predictions import read_predictions, write_predictions
from toplora_train.models.tiny import tiny_model
from toplora_train.report.gain import gain
from toplora_train.report.inspection import read_inspection
from toplora_train.run import finetune
from toplora_train.run.inspect import compare_adapters, inspect_folder, inspect_run

TINY = ModelSettings(name="tiny", builtin="tiny")


def trained(folder: Path, adapter: str, **changes) -> Path:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    config = tiny_run(folder, adapter, report=ReportSettings(extras=True), **changes)
    write_config(config, folder / "config.yaml")
    finetune.run(config, folder)
    for number, handler in before.items():
        signal.signal(number, handler)
    return folder


@pytest.fixture(scope="module")
def toplora(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("toplora"), "toplora")


def inspected(run: Path, text: str | None = None, *, extras: bool = True) -> Path:
    config = evaluation_config(read_config(run / "config.yaml"))
    return inspect_run(config, run, text=text, extras=extras)


def test_the_run_measures_what_the_command_measures_again(toplora: Path):
    of_run = read_inspection(toplora)
    assert of_run.gates.scores.keys() == {"arithmetic"}
    page = inspected(toplora)
    again = read_inspection(toplora)
    assert page == toplora / "report.html"
    assert again.gates.scores == of_run.gates.scores
    for one, other in zip(of_run.updates, again.updates, strict=True):
        assert one.singular_values == pytest.approx(other.singular_values, rel=1e-5)


def test_scores_with_fixed_gates_are_those_of_the_stored_answers(toplora: Path):
    score = read_inspection(toplora).gates.scores["arithmetic"]
    tuned = read_predictions(toplora / "predictions" / "arithmetic.jsonl")
    for fixed, difference in (("one", score.over_one), ("mean", score.over_mean)):
        rows = read_predictions(
            toplora / "inspection" / "predictions" / f"arithmetic.{fixed}.jsonl"
        )
        assert [row.id for row in rows] == [row.id for row in tuned]
        assert getattr(score, fixed) == sum(row.correct for row in rows) / len(rows)
        paired = gain({"arithmetic": (rows, tuned)})["tasks"]["arithmetic"]
        assert difference.value == pytest.approx(paired["value"])
        assert difference.ci95 == pytest.approx(paired["ci95"])


def test_answers_with_fixed_gates_are_reused(toplora: Path):
    """An answer that no model gave is still there afterwards."""
    path = toplora / "inspection" / "predictions" / "arithmetic.one.jsonl"
    first, *others = read_predictions(path)
    write_predictions(path, [replace(first, output=f"It is {first.label}."), *others])
    inspected(toplora)
    assert read_predictions(path)[0].output == f"It is {first.label}."
    assert read_inspection(toplora).gates.scores["arithmetic"].one >= 1 / (1 + len(others))


def test_a_text_of_ones_own_is_shown_and_without_extras_nothing_is_scored(toplora: Path):
    inspected(toplora, "Does <b> matter?", extras=False)
    gates = read_inspection(toplora).gates
    assert gates.texts[0] == "your text"
    assert gates.scores == {}
    page = (toplora / "report.html").read_text()
    assert "not scored with fixed gates (report.extras=false)" in page
    assert '<option value="0">your text</option>' in page


def test_an_adapter_saved_by_plain_peft_has_a_page(tmp_path: Path):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    model = shaken(get_peft_model(tiny_model(), config))
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    page = inspect_folder(
        tmp_path / "adapter", tmp_path / "out", TINY, text=None, extras=True, device="cpu"
    )
    assert page == tmp_path / "out" / "inspection" / "inspection.html"
    assert "<h1>LORA on tiny</h1>" in page.read_text()
    found = read_inspection(tmp_path / "out")
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    update = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    one = next(update for update in found.updates if update.module.endswith("1.mlp.down_proj"))
    singular = torch.linalg.svdvals(update.detach())[:4]
    assert one.singular_values == pytest.approx(singular.tolist(), abs=1e-5)


def test_two_runs_adapters_are_compared_by_module(toplora: Path, tmp_path: Path):
    lora = trained(tmp_path / "lora", "lora", task={})
    (pair,) = compare_adapters({"toplora": toplora, "lora": lora})
    assert (pair["first"], pair["second"], len(pair["modules"])) == ("toplora", "lora", 6)
    assert all(len(module["outputs"]) == 8 for module in pair["modules"])
    (same,) = compare_adapters({"one": lora, "itself": lora})
    assert max(max(module["outputs"]) for module in same["modules"]) == pytest.approx(0, abs=1e-5)
    assert min(module["overlap"] for module in same["modules"]) == pytest.approx(1)
    report = json.loads((lora / "report.json").read_text())
    report["model"]["path"] = "owner/other"
    (lora / "report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match=r"angles=true: .* have different base models"):
        compare_adapters({"toplora": toplora, "lora": lora})


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path):
    config = tiny_run(tmp_path)
    with pytest.raises(UserError, match=r"report\.json: no such file"):
        inspect_run(replace(config), tmp_path, text=None, extras=True)
