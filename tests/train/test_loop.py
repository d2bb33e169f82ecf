import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from traceback import extract_stack
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.train.test_step import adamw, examples
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import Interrupted, RunFailure
from toplora_train.data.batches import collate
from toplora_train.models.tiny import tiny_model
from toplora_train.train.checkpoint import (
    TrainState,
    adapter_tensors,
    load_checkpoint,
    newest_checkpoint,
    read_state,
)
from toplora_train.train.loop import train
from toplora_train.train.optimizer import parameter_groups
from toplora_train.train.record import StepRecord
from toplora_train.train.settings import LoopSettings, TrainingData
from toplora_train.train.signals import Interruption
from toplora_train.train.step import supervised_loss

RUN = ("accelerator", "start", "interruption", "should_stop")


def lora() -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(
        tiny_model(), LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    )


def start_training(model, optimizer, folder: Path, **changes) -> Iterator[StepRecord]:
    settings = dict(
        accelerator=Accelerator(cpu=True),
        learning_rate=lambda step: 1e-2 / step,
        start=TrainState(),
        total_steps=6,
        batch_size=3,
        micro_batch_size=2,
        group_by_length=True,
        max_grad_norm=1.0,
        collate=partial(collate, pad_token_id=0),
        loss=supervised_loss,
        seed=1,
        log_every=2,
        eval_every=0,
        save_every=2,
        save_seconds=math.inf,
        keep=2,
        checkpoints=folder,
        interruption=Interruption(),
    )
    settings |= changes
    data = TrainingData(
        examples(), settings.pop("validation", []), settings.pop("collate"), settings.pop("loss")
    )
    run = {key: settings.pop(key) for key in RUN if key in settings}
    return train(model, optimizer, data, LoopSettings(**settings), **run)


def test_an_interrupted_and_resumed_run_ends_byte_for_byte_like_an_uninterrupted_one(tmp_path):
    model = lora()
    torch.manual_seed(5)
    whole = list(start_training(model, adamw(model), tmp_path / "whole"))

    other = lora()
    optimizer = adamw(other)
    torch.manual_seed(5)
    running = start_training(other, optimizer, tmp_path / "cut")
    first = [next(running) for _ in range(5)]  # step 5 is in the second epoch, step 4 is saved
    del running
    checkpoint = newest_checkpoint(tmp_path / "cut")
    assert checkpoint is not None

    resumed = lora()
    optimizer = adamw(resumed)
    load_checkpoint(
        checkpoint, model=resumed, optimizer=optimizer, accelerator=Accelerator(cpu=True)
    )
    state = read_state(checkpoint)
    assert state.step == 4
    rest = list(start_training(resumed, optimizer, tmp_path / "cut", start=state))

    steps = {record.step: record for record in [*first, *rest]}
    assert [steps[step].loss for step in range(1, 7)] == [record.loss for record in whole]
    assert [steps[step].tokens for step in range(1, 7)] == [record.tokens for record in whole]
    for name, tensor in adapter_tensors(model).items():
        assert torch.equal(tensor, adapter_tensors(resumed)[name]), name
    names = [tmp_path / run / "step-00000006" / "adapter.safetensors" for run in ("whole", "cut")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_logged_losses_are_means_per_token_over_the_steps_since_the_last(tmp_path: Path):
    every, second = lora(), lora()
    torch.manual_seed(5)
    all_steps = list(start_training(every, adamw(every), tmp_path / "a", log_every=1))
    torch.manual_seed(5)
    pairs = list(start_training(second, adamw(second), tmp_path / "b", log_every=3))
    assert [record.logged for record in pairs] == [True, False, True, False, False, True]
    tokens = [b.supervised_tokens - a.supervised_tokens for a, b in pairwise(all_steps)]
    last = sum(r.loss * n for r, n in zip(all_steps[3:], tokens[2:], strict=True)) / sum(tokens[2:])
    assert pairs[5].loss == pytest.approx(last, rel=1e-6)


def test_enough_is_asked_after_every_step_and_ends_the_run_in_a_checkpoint(tmp_path: Path):
    model, seen = lora(), []

    def should_stop() -> bool:
        return len(seen) == 2

    running = start_training(model, adamw(model), tmp_path, should_stop=should_stop, save_every=0)
    for record in running:
        seen.append(record.step)
    assert seen == [1, 2]
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.name == "step-00000002"
    again = start_training(
        model, adamw(model), tmp_path, should_stop=should_stop, start=read_state(found)
    )
    assert list(again) == []


def test_a_resumed_run_goes_on_with_the_trend_of_the_loss(tmp_path: Path):
    model = lora()
    list(start_training(model, adamw(model), tmp_path, total_steps=3))
    trend = read_state(tmp_path / "step-00000003").trend
    assert trend.steps == 3 and trend.mean > 0


def test_a_signal_ends_the_step_in_a_checkpoint(tmp_path: Path):
    interruption = Interruption()
    model = lora()
    running = start_training(model, adamw(model), tmp_path, interruption=interruption, save_every=0)
    next(running)
    next(running)
    interruption.receive(2, None)
    with pytest.raises(Interrupted):
        next(running)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.name == "step-00000002"


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path: Path):
    model = lora()
    running = start_training(model, adamw(model), tmp_path)
    for _ in range(3):
        next(running)
    with torch.no_grad():
        model.get_base_model().lm_head.weight.fill_(math.nan)
    with pytest.raises(RunFailure, match=r"nan at step 4\. Start again"):
        next(running)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.name == "step-00000002"


def test_a_gradient_that_is_nan_between_two_log_lines_is_named_by_its_step_and_never_saved(
    tmp_path,
):
    model, steps = lora(), []
    bad = next(p for p in model.parameters() if p.requires_grad)
    bad.register_hook(lambda gradient: gradient * (math.nan if len(steps) == 2 else 1.0))
    running = start_training(model, adamw(model), tmp_path, batch_size=2, log_every=9, save_every=4)

    def collect() -> None:
        for record in running:
            steps.append(record.step)

    with pytest.raises(RunFailure, match=r"the gradient norm is nan at step 3\. "):
        collect()
    assert steps == [1, 2, 3] and newest_checkpoint(tmp_path) is None


def test_a_checkpoint_is_due_after_a_time_too_and_changes_nothing(tmp_path):
    one, other = lora(), lora()
    torch.manual_seed(5)
    list(start_training(one, adamw(one), tmp_path / "steps", save_every=0))
    torch.manual_seed(5)
    often = dict(save_every=0, save_seconds=0.0, log_every=3, keep=9)
    list(start_training(other, adamw(other), tmp_path / "time", **often))
    assert [path.name[-1] for path in sorted((tmp_path / "steps").iterdir())] == ["6"]
    assert [path.name[-1] for path in sorted((tmp_path / "time").iterdir())] == [*"123456"]
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


class Waits(TorchDispatchMode):
    """Names the operations whose result the host needs from the device.

    All is on a CPU here. What is computed from nothing but a collated batch or random numbers is
    the host's own; what ``on_device`` makes of it, the model, and whatever comes of them are not.
    """

    READING = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.own: dict[int, torch.Tensor] = {}  # they stay, so that no other gets their id

    def collate(self, rows) -> dict[str, torch.Tensor]:
        batch = collate(rows, pad_token_id=0)
        self.own |= {id(tensor): tensor for tensor in batch.values()}
        return batch

    def move(self, tensor: torch.Tensor, _device: torch.device) -> torch.Tensor:
        moved = tensor.clone()
        del self.own[id(moved)]
        return moved

    def watched(self, method: str) -> Callable[..., Any]:
        real = getattr(torch.Tensor, method)

        def watching(tensor: torch.Tensor, *args: Any) -> Any:
            if id(tensor) not in self.own:
                self.names.append(method)
            return real(tensor, *args)

        return watching

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        used = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        made = [one for one in tree_leaves(out) if isinstance(one, torch.Tensor)]
        if all(id(one) in self.own for one in used):
            self.own |= {id(one): one for one in made}
            return out
        for one in made:  # the result of an operation in place may have been the host's before
            self.own.pop(id(one), None)
        masks = any(frame.filename.endswith("masking_utils.py") for frame in extract_stack())
        if func.overloadpacket.__name__ in self.READING and not masks:
            self.names.append(func.overloadpacket.__name__)
        return out


@pytest.mark.parametrize("name", ["lora", "toplora"])
def test_the_host_waits_for_the_device_at_logged_steps_only(tmp_path, monkeypatch, name):
    """But for transformers, which reads in each forward pass whether rows are padded or packed."""
    settings = adapter_defaults(name)[0] | {"target_modules": ["q_proj", "v_proj"], "dropout": 0.1}
    model = attach_adapter(tiny_model(), settings, seed=0)
    groups = parameter_groups(model, weight_decay=0.0, lr_multipliers={}, no_decay=())
    optimizer = torch.optim.AdamW(groups, fused=True)  # as on a GPU
    waits, counts = Waits(), {}
    monkeypatch.setattr("toplora_train.train.step.on_device", waits.move)
    for method in ("tolist", "numpy", "cpu"):  # on a CPU they run no operation
        monkeypatch.setattr(torch.Tensor, method, waits.watched(method))
    running = start_training(
        model,
        optimizer,
        tmp_path,
        collate=waits.collate,
        batch_size=2,
        log_every=4,
        save_every=6,
        total_steps=8,
    )
    with waits:
        for record in running:
            counts[record.step] = len(waits.names)
            waits.names.clear()
    assert all(counts[step] for step in (1, 4, 6, 8)), "this test must see what is read"
    assert not any(counts[step] for step in (2, 3, 5)), counts  # 7 has what 6's checkpoint read


def test_an_adapter_tensor_without_a_gradient_stops_the_run_by_name(tmp_path: Path):
    model = lora()
    model.register_parameter("forgotten", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(RunFailure, match="forgotten"):
        next(start_training(model, adamw(model), tmp_path))


def test_validation_is_measured_without_dropout_and_at_the_end(tmp_path: Path):
    model = lora()
    records = list(
        start_training(model, adamw(model), tmp_path, validation=examples(3), eval_every=4)
    )
    measured = {r.step: r.validation_loss for r in records if r.validation_loss is not None}
    assert sorted(measured) == [4, 6]
    assert model.training
    assert all(record.logged for record in records if record.validation_loss is not None)


def test_training_lowers_the_loss(tmp_path: Path):
    model = lora()
    records = list(
        start_training(
            model, adamw(model), tmp_path, total_steps=60, learning_rate=lambda _: 3e-2, log_every=1
        )
    )
    assert records[-1].loss < records[0].loss - 0.5
    assert [record.step for record in records] == list(range(1, 61))
    assert all(record.peak_memory_bytes > 0 for record in records)


@pytest.mark.parametrize("held_out", [False, True])
def test_weights_that_the_very_last_step_spoils_end_the_run_and_are_not_saved(tmp_path, held_out):
    model = lora()
    validation = examples() if held_out else []
    running = start_training(
        model,
        adamw(model),
        tmp_path,
        learning_rate=lambda step: 1e-2 if step < 6 else 1e30,
        validation=validation,
    )
    with pytest.raises(RunFailure, match=r"^the loss is nan after step 6\. Start again"):
        list(running)
    assert newest_checkpoint(tmp_path).name == "step-00000004"
