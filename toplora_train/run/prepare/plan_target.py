"""The device that a run is planned for: a known one or this machine's, and several of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch

from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.models.devices import UTILISATION, find_device
from toplora_train.models.memory import MemoryEstimate
from toplora_train.models.work import product_speed
from toplora_train.report.plan import DeviceMemory, readable_bytes
from toplora_train.run.platform.device import open_accelerator
from toplora_train.run.prepare.step_memory import compute_dtype
from toplora_train.run.prepare.validate_settings import validate_settings

MANY = 8  # devices of one machine, as sold and rented, unless the run has a number of its own
ENGINES: tuple[Literal["ddp", "zero2", "fsdp2"], ...] = ("ddp", "zero2", "fsdp2")
# Overrides that belong to a plan only, or that the planned launch replaces.
REPLACED = ("plan", "plan_for", "prefetch", "launch", "launch.processes", "launch.engine")


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        name: Its name.
        capacity: Its memory in bytes; None if unknown.
        speed: Peak FLOP/s of a product of (tokens, hidden) with a (hidden, hidden) matrix.
        speed_from: The source of the speed, in words.
        utilisation: The share of it that a run is assumed to reach; None for a measured speed.
        shares_memory: Whether Python and its libraries take their memory from it too.
    """

    name: str
    capacity: float | None
    speed: Callable[[int, int], float]
    speed_from: str
    utilisation: float | None = None
    shares_memory: bool = False


def find_target(config: RunConfig) -> Target:
    """The device named by ``plan_for``, or this machine's.

    Raises:
        UserError: There is no such device, or it does not support the run's dtype.
    """
    dtype = compute_dtype(config)
    if config.plan_for is not None:
        known = find_device(config.plan_for)
        peak = known.speed(dtype)
        return Target(
            f"{known.name} ({known.memory:g} GB)",
            known.memory_bytes,
            lambda _tokens, _hidden: peak,
            "published peak",
            UTILISATION,
        )
    accelerator = open_accelerator(config.launch.device, config.trainer.mixed_precision)
    device = accelerator.device
    on_gpu = device.type == "cuda"
    torch_dtype: torch.dtype = getattr(torch, dtype)
    return Target(
        torch.cuda.get_device_name(device) if on_gpu else f"this machine's {device.type}",
        torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        lambda tokens, hidden: product_speed(device, torch_dtype, tokens=tokens, hidden=hidden),
        "measured now",
        shares_memory=not on_gpu,
    )


def many_devices(config: RunConfig) -> int:
    """The number of devices that a plan compares with one."""
    processes = config.launch.processes
    return MANY if processes == "auto" or processes == 1 else processes


def memory_of_devices(
    config: RunConfig, of_each: Callable[[int, str], MemoryEstimate], *, trainable: int
) -> list[DeviceMemory]:
    """The memory of a single device, and of each of several with every engine.

    Args:
        config: The run.
        of_each: The memory of each of so many devices with an engine.
        trainable: The adapter's parameters.
    """
    found = [_device_memory("1 device", of_each(1, "ddp"), trainable)]
    many = many_devices(config)
    for engine in ENGINES:
        name = f"{many}, {engine}"
        launch = replace(config.launch, engine=engine, processes=many)
        try:
            validate_settings(replace(config, launch=launch), processes=many)
        except UserError as error:
            found.append(DeviceMemory(name, {}, 0, refusal=str(error)))
        else:
            found.append(_device_memory(name, of_each(many, engine), trainable))
    return found


def launch_command(
    config: RunConfig, memory: Sequence[DeviceMemory], capacity: float | None
) -> str | None:
    """The run's command on several devices, with the first engine that fits; None if none does."""
    for engine, needs in zip(ENGINES, memory[1:], strict=True):
        if needs.refusal is None and (capacity is None or needs.most <= capacity):
            words = shlex.split(config.command)
            kept = [word for word in words if word.lstrip("+").split("=")[0] not in REPLACED]
            return shlex.join(
                [*kept, f"launch={engine}", f"launch.processes={many_devices(config)}"]
            )
    return None


def _device_memory(setting: str, memory: MemoryEstimate, trainable: int) -> DeviceMemory:
    evaluation = memory.weights + 4 * trainable + memory.process
    return DeviceMemory(setting, asdict(memory), evaluation)


def too_large(memory: Sequence[DeviceMemory], target: Target) -> str | None:
    """What to change if not even several devices are enough, in a line."""
    if target.capacity is None or any(
        needs.refusal is None and needs.most <= target.capacity for needs in memory
    ):
        return None
    least = min(needs.most for needs in memory if needs.refusal is None)
    return (
        f"{target.name} is too small in every setting: at least {readable_bytes(least)} are "
        "needed. Reduce this with trainer.activation_checkpointing=true, a smaller "
        "trainer.micro_batch_size, model.dtype=bfloat16 or model.quantization=4bit."
    )
