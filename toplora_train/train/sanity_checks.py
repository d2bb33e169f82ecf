"""What a run is stopped for, and what it takes."""

from __future__ import annotations

import hashlib
import math
import resource
import sys

import torch
from peft import PeftModel

from toplora_train.adapters.base import adapter_prefixes
from toplora_train.config.errors import RunFailure
from toplora_train.train.sharding import full_tensor

LOWER = "Lower optimizer.lr"


def validate_loss(
    loss: float, step: int, saved: int, *, remedy: str = LOWER, taken: bool = False
) -> None:
    """Stop a run whose loss is NaN or infinite.

    Args:
        loss: A step's loss, which the weights have not taken; or, if ``taken``, one after the step.
        step: The step.
        saved: The step of the last checkpoint, 0 for none.
        remedy: What to do, see :func:`precision_remedy`.
        taken: Whether the weights have taken the step.

    Raises:
        RunFailure: It is.
    """
    if math.isfinite(loss):
        return
    kept = (
        f"the checkpoint of step {saved} is the last good one"
        if saved
        else "no checkpoint was due yet"
    )
    raise RunFailure(
        f"the loss is {loss} {'after' if taken else 'at'} step {step}; {kept}. {remedy}"
    )


def precision_remedy(model: torch.nn.Module, mixed_precision: str) -> str:
    """What to do against a loss that is NaN: the key of a number format that overflows, if any.

    Args:
        model: The model in training.
        mixed_precision: What it is computed in, in Accelerate's words.
    """
    of_adapter = {p.dtype for p in model.parameters() if p.requires_grad}
    if torch.float16 in of_adapter:
        return (
            "The adapter's weights are float16, in which small gradients and large weights are "
            "lost: set adapter.dtype=float32"
        )
    if mixed_precision == "fp16":
        return f"{LOWER}, or train in trainer.mixed_precision=bf16 instead of fp16"
    if any(p.dtype == torch.float16 for p in model.parameters()):
        return f"{LOWER}, or load the model with model.dtype=bfloat16 or float32 instead of float16"
    return LOWER


def validate_gradients_exist(model: torch.nn.Module) -> None:
    """Stop a run in which part of the adapter is not trained."""
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if missing:
        raise RunFailure(
            f"{len(missing)} adapter tensors got no gradient in the first step, {missing[0]} among "
            "them: the model's forward pass does not reach them. Leave these modules out of "
            "adapter.target_modules"
        )


def validate_gradients(
    model: torch.nn.Module, norm: float, step: int, *, remedy: str = LOWER
) -> None:
    """Stop a run in which some gradient is not a number; its weights have not taken the step."""
    if math.isfinite(norm):
        return
    bad = [
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not math.isfinite(float(full_tensor(p.grad.sum())))
    ]
    raise RunFailure(
        f"the gradient's norm is {norm} at step {step}: {len(bad)} adapter tensors have gradients "
        f"that are no numbers, {bad[0] if bad else 'none alone'} first. {remedy}, or set "
        "trainer.max_grad_norm"
    )


class DeadTensors:
    """Looks for adapter tensors that are never moved.

    A gradient may well be zero at first (LoRA's A has one as long as B is zero), so a tensor counts
    as dead only when ``patience`` steps with a learning rate have left its gradient at zero.
    """

    def __init__(self, model: torch.nn.Module, *, patience: int = 10) -> None:
        self._silent = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._left = patience

    def look(self, lr: float) -> None:
        """Look at the gradients of a step.

        Raises:
            RunFailure: names the tensors that none of the steps has moved.
        """
        if self._left == 0 or lr == 0.0:
            return
        self._left -= 1
        self._silent = {
            name: p
            for name, p in self._silent.items()
            if p.grad is None or float(full_tensor(p.grad.abs().sum())) == 0.0
        }
        if self._left == 0 and self._silent:
            names = sorted(self._silent)
            raise RunFailure(
                f"{len(names)} adapter tensors have had a gradient of zero since the start, "
                f"{names[0]} among them: nothing is learned there. Leave these modules out of "
                "adapter.target_modules, or change the adapter's settings"
            )


class Beginning:
    """What an adapter is before its first step, to see at the end whether anything was learned.

    Where tensors are zero, as B is in LoRA, they make the update zero, and weight decay leaves them
    so: then those decide. Of an adapter without zeros a digest of each tensor is kept. A head that
    is trained beside the adapter does not count.

    Args:
        model: A model whose adapter is at its start; a resumed one before the checkpoint is read.
    """

    def __init__(self, model: PeftModel) -> None:
        tensors = _own_tensors(model)
        zero = {name for name, tensor in tensors.items() if not tensor.any()}
        self._digests = {name: _digest(tensors[name]) for name in zero or tensors}

    def validate_moved(self, model: PeftModel, *, dtype: str) -> None:
        """Refuse to save an adapter that is still its own start.

        Raises:
            RunFailure: It is; the message says what that may come from.
        """
        tensors = _own_tensors(model)
        if any(_digest(tensors[name]) != digest for name, digest in self._digests.items()):
            return
        config = model.active_peft_config
        reason = (
            "its invocation tokens (adapter.settings.alora_invocation_tokens) may be in no row"
            if getattr(config, "alora_invocation_tokens", None)
            else "its gradients were zero, or the optimizer's steps too small for "
            f"adapter.dtype={dtype}; see grad_norm and lr in metrics.jsonl"
        )
        raise RunFailure(
            "the adapter is still its own start after the last step: nothing was learned, and no "
            f"adapter is saved. Most likely {reason}"
        )


def _own_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's trained tensors; all that is trained where PEFT names none as the adapter's."""
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
    """The most bytes used so far: allocated on a GPU, resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
