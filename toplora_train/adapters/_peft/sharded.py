"""Attach PEFT's and our own methods to a base model that is sharded over processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners import tuners_utils
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication

from toplora_train.models.sharded import full_tensor, is_sharded


@contextmanager
def attaching(model: nn.Module) -> Iterator[None]:
    """Inside, an adapter may be attached to a sharded model; call it on every process.

    What is initialised from the weights is computed on the shards; then all of the adapter's
    tensors are whole on every process, and equal. PEFT takes a sharded weight for one of tensor
    parallelism (all of them in 0.20, with replication in 0.21) and would shape the adapter for a
    process's rows; it is kept from looking.
    """
    if not is_sharded(model):
        yield
        return
    frozen = {id(parameter) for parameter in model.parameters()}
    looked = tuners_utils._torch_supports_distributed
    tuners_utils._torch_supports_distributed = False
    try:
        with implicit_replication():
            yield
    finally:
        tuners_utils._torch_supports_distributed = looked
    for module in model.modules():
        own: dict[str, Any] = module._parameters
        for name, tensor in list(own.items()):
            if isinstance(tensor, DTensor) and id(tensor) not in frozen:
                whole = nn.Parameter(full_tensor(tensor.detach()), tensor.requires_grad)
                setattr(module, name, whole)
