"""Checks that stop a run that cannot be learning, and its peak memory."""

from __future__ import annotations

import hashlib
import math

import torch
from peft import PeftModel

from toplora_train.adapters.base import adapter_prefixes
from toplora_train.config.errors import RunFailure
from toplora_train.models.memory import peak_resident_memory
from toplora_train.models.sharded import full_tensor

# Resuming repeats the step: a checkpoint keeps its run's rate and precision.
LOWER = "Start again, in another output_dir, with a lower optimizer.lr"


def validate_loss(loss: float, step: int, *, remedy: str = LOWER, taken: bool = False) -> None:
    """Stop a run whose loss is NaN or infinite.

    Args:
        loss: A step's training loss or, if ``taken``, a loss measured after the step.
        step: The step.
        remedy: What to do, see :func:`precision_remedy`.
        taken: Whether the weights were already updated.

    Raises:
        RunFailure: The loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise RunFailure(f"the loss is {loss} {'after' if taken else 'at'} step {step}. {remedy}")


def precision_remedy(model: torch.nn.Module, mixed_precision: str) -> str:
    """The advice for a NaN loss: the setting that makes a format overflow, or a lower rate.

    Args:
        model: The model in training.
        mixed_precision: Accelerate's ``mixed_precision``.
    """
    if mixed_precision == "fp16":
        return f"{LOWER}, or in trainer.mixed_precision=bf16 instead of fp16"
    if any(p.dtype == torch.float16 for p in model.parameters()):
        return f"{LOWER}, or with model.dtype=bfloat16 or float32 instead of float16"
    return LOWER


def validate_gradients_exist(model: torch.nn.Module) -> None:
    """Stop a run in which some adapter tensor receives no gradient.

    Raises:
        RunFailure: Names the first such tensor.
    """
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if missing:
        raise RunFailure(
            f"{len(missing)} adapter tensors got no gradient in the first step, for example "
            f"{missing[0]}: the model's forward pass does not use them. Leave these modules out of "
            "adapter.target_modules"
        )


def validate_gradients(
    model: torch.nn.Module, norm: float, step: int, *, remedy: str = LOWER, held: bool = True
) -> None:
    """Stop a run with a NaN or infinite gradient.

    Args:
        model: The model.
        norm: The norm of a step's gradient.
        step: The step.
        remedy: What to do, see :func:`precision_remedy`.
        held: Whether the model still holds the gradients of this step.

    Raises:
        RunFailure: Names the first such tensor, if the step's gradients are held.
    """
    if math.isfinite(norm):
        return
    if not held:
        raise RunFailure(
            f"the gradient norm is {norm} at step {step}. {remedy}; with trainer.log_every=1 the "
            "tensors are named"
        )
    bad = [
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not math.isfinite(float(full_tensor(p.grad.sum())))
    ]
    raise RunFailure(
        f"the gradient norm is {norm} at step {step}: {len(bad)} adapter tensors have NaN or "
        f"infinite gradients (first: {bad[0] if bad else 'none alone'}). {remedy}"
    )


class DeadTensors:
    """Finds adapter tensors whose gradient stays zero.

    A gradient may be zero at first (LoRA's A while B is zero), so a tensor counts as dead only when
    its gradient was zero in ``patience`` steps with a positive learning rate.
    """

    def __init__(self, model: torch.nn.Module, *, patience: int = 10) -> None:
        self._tensors = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._largest: torch.Tensor | None = None  # of each tensor's gradient, on the device
        self._left = patience

    def look(self, lr: float) -> None:
        """Take note of a step's gradients, without waiting for the device."""
        if self._left == 0 or lr == 0.0:
            return
        self._left -= 1
        gradients = [
            torch.zeros((), device=p.device) if p.grad is None else full_tensor(p.grad)
            for p in self._tensors.values()
        ]
        largest = torch.stack([one.float() for one in torch._foreach_norm(gradients, math.inf)])
        self._largest = largest if self._largest is None else self._largest.maximum(largest)

    def validate(self) -> None:
        """Read what was noted, once ``patience`` steps have been.

        Raises:
            RunFailure: a tensor's gradient was zero in all ``patience`` steps.
        """
        if self._left or self._largest is None:
            return
        largest, self._largest = self._largest.tolist(), None
        names = sorted(name for name, one in zip(self._tensors, largest, strict=True) if one == 0.0)
        if names:
            raise RunFailure(
                f"{len(names)} adapter tensors have had a zero gradient since the start, for "
                f"example {names[0]}: they do not learn. Leave these modules out of "
                "adapter.target_modules, or change the adapter's settings"
            )


class Beginning:
    """The adapter's initial state, to check after training whether anything was learned.

    Tensors that start at zero, such as LoRA's B, make the update zero and weight decay keeps them
    there, so they alone are compared if there are any; else all tensors are. A head that is trained
    with the adapter does not count.

    Args:
        model: A model with a freshly initialised adapter; when resuming, before loading the
            checkpoint.
    """

    def __init__(self, model: PeftModel) -> None:
        tensors = _own_tensors(model)
        zero = {name for name, tensor in tensors.items() if not tensor.any()}
        self._digests = {name: _digest(tensors[name]) for name in zero or tensors}

    def validate_moved(self, model: PeftModel, *, dtype: str) -> None:
        """Refuse to save an adapter that is unchanged since its initialisation.

        Raises:
            RunFailure: It is unchanged; the message names the likely cause.
        """
        tensors = _own_tensors(model)
        if any(_digest(tensors[name]) != digest for name, digest in self._digests.items()):
            return
        config = model.active_peft_config
        reason = (
            "no row contains its invocation tokens (adapter.settings.alora_invocation_tokens)"
            if getattr(config, "alora_invocation_tokens", None)
            else "its gradients were zero, or the optimizer's steps too small for "
            f"adapter.dtype={dtype}; see grad_norm and lr in metrics.jsonl"
        )
        raise RunFailure(
            "the adapter is unchanged since its initialisation: nothing was learned, and no "
            f"adapter is saved. Most likely {reason}"
        )


def _own_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's trainable tensors; all trainable ones where none has the adapter's prefix."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    prefixes = adapter_prefixes(model)
    own = {
        name: tensor
        for name, tensor in trained.items()
        if any(part.startswith(prefixes) for part in name.split("."))
    }
    return own or trained


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.contiguous().flatten().view(torch.uint8).cpu()
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def peak_memory(device: torch.device) -> int:
    """Peak bytes so far: allocated on a GPU, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_memory()
