"""What each of two processes runs: train every adapter a few steps, save losses and tensors."""

import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save_file

from tests.train.test_step import examples
from toplora_train.adapters.attach import adapter_names, attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.schema import LaunchSettings
from toplora_train.data.batches import collate
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.sharded import place, shard
from toplora_train.models.tiny import tiny_model
from toplora_train.run.platform.device import open_shards
from toplora_train.train.checkpoint import TrainState, adapter_tensors
from toplora_train.train.loop import train
from toplora_train.train.optimizer import build_optimizer
from toplora_train.train.settings import LoopSettings, TrainingData
from toplora_train.train.sharding import shard_adapter
from toplora_train.train.signals import Interruption
from toplora_train.train.step import Loss, supervised_loss

STEPS = 4
# By default the adapters that differ for several processes: a factor of a layer's own, a gate, and
# tensors of all layers in the root. The others are slow tests.
DEFAULT = ("lora", "toplora", "tenslora")
SHARDED = (*DEFAULT, "lora-pissa", "orthogonal", "sbora")
# Activated LoRA is a LoRA that needs rows with its tokens, and a fusion needs runs.
TRAINED = (*DEFAULT, *sorted({*adapter_names()} - {*DEFAULT, "alora", "fusion"}), "lora-pissa")


def settings(name: str) -> dict:
    values, _ = adapter_defaults(name.removesuffix("-pissa"))
    if name.endswith("-pissa"):
        values["init"] = "pissa"
    if name == "peft":
        values |= {"peft_type": "LOHA", "settings": {"r": 4, "target_modules": ["q_proj"]}}
    return {key: 0.0 if "dropout" in key else value for key, value in values.items()}


def train_one(
    name: str,
    folder: Path,
    accelerator: Accelerator,
    *,
    micro_batch_size: int = 2,
    activation_checkpointing: bool = False,
    stage: int = 0,
    steps: int = STEPS,
    loss: Loss = supervised_loss,
) -> None:
    """Eleven rows in batches of five: the last batch of an epoch is one row, for two processes."""
    base = tiny_model().requires_grad_(False)
    if stage == 3:
        shards = open_shards(LaunchSettings(engine="fsdp2"), accelerator)
        place(shard(base, shards, whole=()), shards)
    adapted = attach_adapter(base, settings(name), seed=3)
    if activation_checkpointing:
        checkpoint_activations(adapted)
    if stage == 2:
        shard_adapter(adapted, accelerator.device)
    optimizer = build_optimizer(adapted, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    model = adapted if stage else accelerator.prepare(adapted)
    optimizer = accelerator.prepare(optimizer)
    records = train(
        model,
        optimizer,
        TrainingData(examples(11), examples(3), lambda rows: collate(rows, 0), loss),
        LoopSettings(
            total_steps=steps,
            learning_rate=lambda step: 1e-3 / step,
            batch_size=5,
            micro_batch_size=micro_batch_size,
            group_by_length=True,
            max_grad_norm=1.0,
            seed=1,
            log_every=1,
            eval_every=2,
            save_every=0,
            save_seconds=math.inf,
            keep=1,
            checkpoints=folder / name / "checkpoints",
        ),
        start=TrainState(),
        accelerator=accelerator,
        interruption=Interruption(),
    )
    numbers = [(r.loss, r.grad_norm, r.validation_loss or 0.0) for r in records]
    tensors = adapter_tensors(accelerator.unwrap_model(model))
    for tensor in tensors.values():  # identical on all processes, bit for bit
        if accelerator.num_processes > 1:
            assert torch.equal(*gather_object([tensor]))
    if accelerator.is_main_process:
        save_file(tensors | {"numbers": torch.tensor(numbers)}, folder / f"{name}.safetensors")


def full_from(step: int, accelerator: Accelerator) -> Loss:
    """A loss that, from some step on, fits only one row into the second process's memory."""
    passes = 0

    def loss(model, batch, device):
        nonlocal passes
        passes += torch.is_grad_enabled()
        if accelerator.process_index == 1 and passes >= step and len(batch["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return supervised_loss(model, batch, device)

    return loss


def main(folder: Path, default: bool) -> None:
    accelerator = Accelerator(cpu=True)
    torch.set_num_threads(1)
    for name in DEFAULT if default else TRAINED:
        train_one(name, folder, accelerator)
    train_one("tenslora", folder / "recomputed", accelerator, activation_checkpointing=True)
    for stage in (2, 3):
        for name in DEFAULT if default else SHARDED:
            train_one(name, folder / f"zero{stage}", accelerator, stage=stage)
    # A step is one micro-batch of three rows in the first process and two in the second.
    for where, loss in (("enough", supervised_loss), ("full", full_from(7, accelerator))):
        train_one("lora", folder / where, accelerator, micro_batch_size=3, steps=9, loss=loss)
    accelerator.end_training()


def run(folder: Path, default: bool) -> None:
    """Make the folders, and train in each."""
    for name in ("", "recomputed", "zero2", "zero3", "enough", "full"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    main(folder, default)
