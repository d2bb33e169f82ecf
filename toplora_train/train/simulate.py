"""The memory of a training step, counted by running it on the meta device, without any values.

Every tensor that the step's operations allocate is counted for as long as it lives. Memory grows
by the same amount with every further layer, so two steps, of a model with one layer and with two,
give that of all L layers:

    peak(L) = peak(1) + (L - 1) (peak(2) - peak(1))
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config as of_shapes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toplora_train.models.layers import first_layers, repeated_layers
from toplora_train.train.step import Batch, Loss

META = torch.device("meta")
VALUES = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)


def simulated_step_bytes(
    model: nn.Module, batch: Batch, loss: Loss, dtype: torch.dtype, *, on_gpu: bool = False
) -> int:
    """The most bytes that a forward and backward pass allocate beyond the parameters.

    Args:
        model: On the meta device; it is left in training mode and in ``dtype``.
        batch: The rows of a pass, on the CPU.
        loss: The sum of their loss.
        dtype: Of the frozen weights' products.
        on_gpu: Whether the step is to run on a GPU, where dropout keeps a byte per entry; on a CPU
            it keeps a number.

    Raises:
        Exception: Whatever the model raises where it needs the values of a tensor.
    """
    model.train()
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    layers = len(repeated_layers(model))
    if layers < 2:
        return _peak(model, batch, loss, on_gpu)
    with first_layers(model, 1):
        one = _peak(model, batch, loss, on_gpu)
    with first_layers(model, 2):
        two = _peak(model, batch, loss, on_gpu)
    return one + (layers - 1) * (two - one)


def _peak(model: nn.Module, batch: Batch, loss: Loss, on_gpu: bool) -> int:
    allocated = Allocated([*model.parameters(), *model.buffers()], META)
    try:
        # Where a shape depends on values, as many are selected as can be.
        selecting_all = of_shapes.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
        with allocated, _as_devices_compute(on_gpu), selecting_all:
            loss(model, batch, META).backward()  # type: ignore[no-untyped-call]  # torch's is
    finally:
        model.zero_grad(set_to_none=True)
    return allocated.most


class Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in its package
    """Counts the bytes that operations allocate on a device.

    Attributes:
        now: Bytes that are alive.
        most: The most so far.
    """

    def __init__(self, given: Iterable[Tensor], device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in its package
        self.now = self.most = 0
        self._device = device.type
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        if function in VALUES and args[0].is_meta:  # masks hide nothing
            return torch.ones((), dtype=args[0].dtype).item()
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device:
                self._count(tensor.untyped_storage())
        self.most = max(self.most, self.now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.now += size
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


@contextmanager
def _as_devices_compute(on_gpu: bool) -> Iterator[None]:
    """Inside, attention and dropout keep what they keep on a device; on meta torch keeps more."""
    attention, dropout = F.scaled_dot_product_attention, F.dropout

    def flash(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
        if how.get("dropout_p") or not query.is_meta:
            return attention(query, key, value, **how)
        mask = how.get("attn_mask")
        result: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query,
            key,  # it takes fewer heads of them as they are
            value,
            is_causal=how.get("is_causal", False),
            attn_mask=mask if mask is None else mask.to(query.dtype),
            scale=how.get("scale"),
        )[0]
        return result

    def masked(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not (on_gpu and training and p and input.is_meta):
            return dropout(input, p, training, inplace)
        return torch.native_dropout(input, p, train=True)[0]

    F.scaled_dot_product_attention = flash  # type: ignore[assignment]  # put back below
    F.dropout = masked
    try:
        yield
    finally:
        F.scaled_dot_product_attention, F.dropout = attention, dropout
