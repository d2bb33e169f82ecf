from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from toplora_train.config.errors import RunFailure
from toplora_train.jobs.selection import Selection, fingerprint
from toplora_train.models.head import Head
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation

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


def selection(folder: Path, values: list[float], **changes) -> Selection:
    left = iter(values)
    settings = dict(metric="accuracy", rows=9, total_steps=5, resumed_step=0, silent=False)
    return Selection(folder, lambda _model: next(left), **(settings | changes))


def step(number: int, epoch: float) -> SimpleNamespace:
    return SimpleNamespace(step=number, epoch=epoch)


def test_the_ends_of_epochs_and_the_last_step_are_judged_and_no_other(tmp_path: Path):
    chosen = selection(tmp_path, [0.1, 0.2, 0.3])
    model = adapted()
    for number in range(1, 6):
        chosen.consider(model, step(number, number / 2))
    assert [(one.step, one.epoch) for one in chosen.epochs] == [(2, 1.0), (4, 2.0), (5, 2.5)]
    assert str(chosen.epochs[0]) == "epoch 1: accuracy 10.0% on 9 held-out rows"


def test_the_best_epochs_tensors_come_back_head_and_adapter(tmp_path: Path):
    chosen = selection(tmp_path, [0.5, 0.7, 0.7, 0.6])
    model = adapted()
    prints = []
    for number in (1, 2, 3, 4):
        change(model)
        chosen.consider(model, step(number, number))
        prints.append(fingerprint(model))
    assert chosen.best.step == 2  # of equals the first
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


def test_a_resumed_run_knows_the_epochs_before_it_and_judges_the_later_again(tmp_path: Path):
    model = adapted()
    first = selection(tmp_path, [0.5, 0.9])
    first.consider(model, step(2, 1.0))
    first.consider(model, step(4, 2.0))
    resumed = selection(tmp_path, [0.9], resumed_step=3)
    assert [one.step for one in resumed.epochs] == [2]
    resumed.consider(model, step(4, 2.0))
    assert resumed.epochs == first.epochs


def test_the_other_processes_write_nothing(tmp_path: Path):
    chosen = selection(tmp_path / "selected", [0.5], silent=True)
    chosen.consider(adapted(), step(2, 1.0))
    assert not (tmp_path / "selected").exists()
    assert chosen.best.step == 2


def test_a_folder_that_cannot_be_written_is_a_failure_that_says_what_to_do(tmp_path: Path):
    (tmp_path / "file").write_text("")
    chosen = selection(tmp_path / "file" / "selected", [0.5])
    with pytest.raises(RunFailure, match="resume=auto"):
        chosen.consider(adapted(), step(2, 1.0))
