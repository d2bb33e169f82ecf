from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.schema import TaskSettings
from toplora_train.models.head import Head
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation
from toplora_train.report.held_out import VALIDATION_LOSS
from toplora_train.run.fit.best_checkpoint import (
    BestCheckpoint,
    fingerprint,
    select,
    selects,
)

TINY = ModelLocation("toplora-train/tiny", None, "built in")


def adapted() -> PeftModel:
    torch.manual_seed(0)
    base = load_model(TINY, dtype="float32", head=Head(("no", "yes"), 0))
    return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"))


def change(model: PeftModel) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


def selection(folder: Path, values: list[float], **changes) -> BestCheckpoint:
    left = iter(values)
    settings = dict(metric="accuracy", rows=9, patience=None, resumed_step=0, silent=False)
    return BestCheckpoint(folder, lambda _model, _record: next(left), **(settings | changes))


def step(number: int, epoch: float) -> SimpleNamespace:
    return SimpleNamespace(step=number, epoch=epoch, validation_loss=None)


def judged_run(make_run, **trainer):
    """A run that trains a head, of 12 steps in 4 epochs."""
    config = make_run()
    task = TaskSettings(name="t", source="rows.jsonl", kind="classify", choices=["no", "yes"])
    return replace(
        config,
        task={"t": task},
        dataset=replace(config.dataset, validation_share=0.1),
        trainer=replace(config.trainer, max_steps=5, **trainer),
    )


def test_the_lowest_loss_is_the_best_and_is_shown_as_a_loss(tmp_path: Path):
    chosen = selection(tmp_path, [1.5, 1.25, 1.75], metric=VALIDATION_LOSS)
    model = adapted()
    lines = [chosen.consider(model, step(number, number / 3)) for number in (1, 2, 3)]
    assert chosen.best.step == 2
    assert lines[1] == "step 2 (epoch 0.6667): validation loss 1.2500 on 9 held-out rows"


def test_patience_runs_out_after_that_many_evaluations_without_improvement(tmp_path: Path):
    values = [0.5, 0.4, 0.6, 0.6, 0.5]
    chosen = selection(tmp_path, values, patience=2)
    model = adapted()
    ends = []
    for number in range(1, 6):
        line = chosen.consider(model, step(number, number))
        ends.append(chosen.exhausted)
    assert ends == [False, False, False, False, True]
    assert line.endswith("accuracy 50.0% on 9 held-out rows; no improvement in 2, stopping")
    assert chosen.to_dict()["stopped_early"]
    assert selection(tmp_path, [], patience=2, resumed_step=5).exhausted


def test_a_step_without_an_evaluation_is_skipped(tmp_path: Path):
    chosen = BestCheckpoint(
        tmp_path,
        lambda _model, record: record.validation_loss,
        metric=VALIDATION_LOSS,
        rows=1,
        patience=1,
        resumed_step=0,
        silent=False,
    )
    assert chosen.consider(adapted(), step(1, 1.0)) is None
    assert not chosen.exhausted
    assert not list(tmp_path.iterdir())


def test_the_best_is_kept_by_default_with_a_head_and_where_configured(make_run):
    text = make_run()
    best = replace(
        text,
        dataset=replace(text.dataset, validation_rows=4),
        trainer=replace(text.trainer, eval_every=2, select="best"),
    )
    assert not selects(text)
    assert selects(best)
    assert selects(replace(best, trainer=replace(best.trainer, select=None, patience=1)))
    assert selects(judged_run(make_run))
    assert not selects(judged_run(make_run, select="last"))
    no_rows = SimpleNamespace(validation_rows=[])
    assert select(text, no_rows, Path(), resumed_step=0, autocast_dtype=None, silent=True) is None


@pytest.mark.parametrize(
    ("trainer", "held_out", "message"),
    [
        ({"select": "best", "eval_every": 2}, 0, r"select=best.*set dataset\.validation_rows"),
        ({"patience": 3, "eval_every": 2}, 0, r"trainer\.patience.*validation_rows"),
        ({"select": "best"}, 4, r"trainer\.eval_every steps: set it"),
        ({"select": "last", "patience": 3}, 4, r"trainer\.select=best"),
        ({"select_by": "metric", "eval_every": 2}, 4, r"select_by=metric has no effect"),
    ],
)
def test_an_impossible_selection_is_refused_with_the_remedy(make_run, trainer, held_out, message):
    config = make_run()
    config = replace(
        config,
        dataset=replace(config.dataset, validation_rows=held_out),
        trainer=replace(config.trainer, **trainer),
    )
    with pytest.raises(UserError, match=message):
        selects(config)


def test_a_head_selected_by_its_loss_is_validated_as_often_as_configured(make_run):
    """At the end of training alone, the best would be chosen from one."""
    assert selects(judged_run(make_run, select_by="loss", eval_every=2))
    with pytest.raises(UserError, match=r"select_by=loss validates every trainer\.eval_every"):
        selects(judged_run(make_run, select_by="loss"))


def test_head_and_adapter_of_the_best_epoch_are_restored(tmp_path: Path):
    chosen = selection(tmp_path, [0.5, 0.7, 0.7, 0.6])
    model = adapted()
    prints = []
    for number in (1, 2, 3, 4):
        change(model)
        chosen.consider(model, step(number, number))
        prints.append(fingerprint(model))
    assert chosen.best.step == 2  # the first of equals
    assert not chosen.best_is_last
    assert len(set(prints)) == 4
    chosen.restore(model)
    assert fingerprint(model) == prints[1]
    assert chosen.to_dict()["step"] == 2


def test_the_last_epoch_may_be_the_best(tmp_path: Path):
    chosen = selection(tmp_path, [0.5, 0.7])
    model = adapted()
    chosen.consider(model, step(2, 1.0))
    chosen.consider(model, step(5, 2.5))
    assert chosen.best_is_last


def test_a_resumed_run_keeps_earlier_evaluations_and_repeats_later_ones(tmp_path: Path):
    model = adapted()
    first = selection(tmp_path, [0.5, 0.9])
    first.consider(model, step(2, 1.0))
    first.consider(model, step(4, 2.0))
    resumed = selection(tmp_path, [0.9], resumed_step=3)
    assert [one.step for one in resumed.judged] == [2]
    resumed.consider(model, step(4, 2.0))
    assert resumed.judged == first.judged


def test_a_resumed_run_restores_the_best_of_its_own_past(tmp_path: Path):
    """Killed at step 20, after a better adapter than at 10; repeated elsewhere, 20 is worse."""
    model, folder = adapted(), tmp_path / "checkpoints" / "selected"
    first = selection(folder, [0.5, 0.8, 0.9])
    for number in (5, 10):
        change(model)
        first.consider(model, step(number, number))
    (folder.parent / "step-00000015").mkdir()
    kept = fingerprint(model)
    change(model)
    first.consider(model, step(20, 20))
    resumed = selection(folder, [0.7], resumed_step=15)
    change(model)
    resumed.consider(model, step(20, 20))
    assert resumed.best.step == 10
    resumed.restore(model)
    assert fingerprint(model) == kept
    assert [path.name for path in folder.glob("*.safetensors")] == ["adapter-00000010.safetensors"]


def test_other_ranks_write_nothing(tmp_path: Path):
    chosen = selection(tmp_path / "selected", [0.5], silent=True)
    chosen.consider(adapted(), step(2, 1.0))
    assert not (tmp_path / "selected").exists()
    assert chosen.best.step == 2


def test_an_unwritable_folder_fails_with_the_remedy(tmp_path: Path):
    (tmp_path / "file").write_text("")
    chosen = selection(tmp_path / "file" / "selected", [0.5])
    with pytest.raises(RunFailure, match="resume=auto"):
        chosen.consider(adapted(), step(2, 1.0))
