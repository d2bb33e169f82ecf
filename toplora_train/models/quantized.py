"""4-bit base layers of bitsandbytes on a CPU, kept in the layout that can be trained through.

On a CPU with AVX-512 BF16 such a layer repacks its weight at the first forward in evaluation mode,
for a kernel that has no backward and that rounds the scales. A model that was evaluated before it
is trained would get wrong gradients in every layer but the last, with no more than a warning.
"""

from __future__ import annotations

from torch import nn

from toplora_train.config.errors import UserError


def keep_trainable(model: nn.Module) -> None:
    """Have no layer repack its weight; to be called before the model's first forward.

    Raises:
        UserError: A layer has done so already, which cannot be undone exactly.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise UserError(
                f"{name} is a 4-bit layer that was evaluated on the CPU already, which leaves it "
                "without gradients; load the model anew and call "
                "toplora_train.models.quantized.keep_trainable(model) before it is used"
            )
        module.support_avx512bf16_for_cpu = False
