"""Devices that a run can be planned for, with their published specifications."""

from __future__ import annotations

from dataclasses import dataclass

from toplora_train.config.errors import UserError

UTILISATION = 0.4
"""The assumed fraction of a device's peak FLOP/s that a run reaches; PaLM's training reached 46 %
(arXiv 2204.02311, table 3)."""


@dataclass(frozen=True)
class Device:
    """A device type, from its data sheet.

    ``fp16``, ``bf16`` and ``fp32`` are peak TFLOP/s of dense matrix products (without sparsity,
    accumulated in fp32; fp32 without TF32, which torch does not use by default); None if the device
    does not support the format. ``memory`` is in GB.
    """

    name: str
    memory: float
    fp16: float
    bf16: float | None
    fp32: float

    @property
    def memory_bytes(self) -> float:
        """Its memory in bytes, with 1 GB = 10^9 bytes to be conservative."""
        return self.memory * 1e9

    def speed(self, dtype: str) -> float:
        """The peak FLOP/s of matrix products in ``dtype``, a torch dtype's name.

        Raises:
            UserError: The device does not support it.
        """
        peak = {"float16": self.fp16, "bfloat16": self.bf16, "float32": self.fp32}[dtype]
        if peak is None:
            raise UserError(
                f"plan_for={self.name}: the device does not support {dtype}; use "
                "trainer.mixed_precision=fp16 and model.dtype=float16"
            )
        return peak * 1e12


DEVICES = {
    device.name: device
    for device in (
        # NVIDIA's data sheets and architecture white papers
        Device("h200", memory=141, fp16=989.4, bf16=989.4, fp32=66.9),
        Device("h100-80g", memory=80, fp16=989.4, bf16=989.4, fp32=66.9),  # SXM5
        Device("h100-pcie", memory=80, fp16=756.0, bf16=756.0, fp32=51.2),
        Device("a100-80g", memory=80, fp16=312.0, bf16=312.0, fp32=19.5),
        Device("a100-40g", memory=40, fp16=312.0, bf16=312.0, fp32=19.5),
        Device("l40s", memory=48, fp16=362.05, bf16=362.05, fp32=91.6),
        Device("l4", memory=24, fp16=121.0, bf16=121.0, fp32=30.3),
        Device("a10", memory=24, fp16=125.0, bf16=125.0, fp32=31.2),
        Device("rtx-4090", memory=24, fp16=165.2, bf16=165.2, fp32=82.6),
        Device("rtx-3090", memory=24, fp16=71.0, bf16=71.0, fp32=35.6),
        Device("v100-32g", memory=32, fp16=125.0, bf16=None, fp32=15.7),  # SXM2
        Device("v100-16g", memory=16, fp16=125.0, bf16=None, fp32=15.7),  # SXM2
        Device("t4", memory=16, fp16=65.0, bf16=None, fp32=8.1),
        # AMD's data sheet
        Device("mi300x", memory=192, fp16=1307.4, bf16=1307.4, fp32=163.4),
    )
}


def find_device(name: str) -> Device:
    """The device of that name.

    Raises:
        UserError: It is unknown.
    """
    if name not in DEVICES:
        raise UserError(f"plan_for={name}: no such device; known: {', '.join(DEVICES)}")
    return DEVICES[name]
