"""Base models sharded over processes with FSDP2, from the files to the last forward pass.

The model is built on the meta device, its parameters are sharded, and each process then reads only
its own rows of every tensor from the safetensors files (transformers' shard-on-read). A layer is
gathered while it computes, and so are the embedding and the output layer. Modules that are trained
whole, and the adapter, are on every process: they are small, and one all-reduce averages their
gradients. No process ever holds all weights, on the CPU or the device.

Every forward pass communicates, so all processes must run equally many: see :func:`in_step`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from toplora_train.config.errors import UserError
from toplora_train.models.layers import repeated_layers

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Shards:
    """The processes that a base model is sharded over.

    Attributes:
        mesh: The processes; with two dimensions, replicated over the first and sharded over the
            second.
        device: Where this process computes.
        offload: Whether the shards wait in the CPU's memory until their layer computes.
    """

    mesh: DeviceMesh
    device: torch.device
    offload: bool = False

    def get_mesh(self, _dimensions: tuple[str, ...]) -> DeviceMesh:
        """The mesh: what transformers calls while loading."""
        return self.mesh


def sharded_class(kind: type[PreTrainedModel], shards: Shards, whole: Sequence[str]) -> Any:
    """``kind`` with a ``from_pretrained`` that shards before it reads, as ``distributed_config``.

    transformers shards by a plan that few architectures have, over the mesh of whatever accelerator
    it finds; here every architecture with repeated layers is sharded by :func:`shard`.
    """

    def prepare(_cls: type, config: Any, device_map: Any = None) -> tuple[Any, Any, Shards]:
        return config, device_map, shards

    def distribute(_cls: type, model: PreTrainedModel, _config: Any, _mesh: Any) -> PreTrainedModel:
        return shard(model, shards, whole)

    return type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "prepare_distribute_model": classmethod(prepare),
            "maybe_distribute_model": classmethod(distribute),
        },
    )


def shard(model: PreTrainedModel, shards: Shards, whole: Sequence[str]) -> PreTrainedModel:
    """Shard the parameters in place, of a model with weights or on the meta device.

    Args:
        model: The model.
        shards: The processes.
        whole: Names of modules that are trained, and so not sharded.

    Raises:
        UserError: The architecture has no repeated layers, so all of it would be gathered at once.
    """
    layers = repeated_layers(model)
    if not layers:
        raise UserError(
            f"launch=fsdp2: {type(model).__name__} names no layers (_no_split_modules) that could "
            "be gathered one at a time; use launch=ddp or launch=zero2"
        )
    model.tie_weights()  # on the meta device they are not tied yet, and a unit must hold both names
    ignored = {
        parameter
        for name, module in model.named_modules()
        if any(name == one or name.endswith(f".{one}") for one in whole)
        for parameter in module.parameters()
    }
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = [getattr(module, "weight", None) for module in ends]
    # Tied, they belong to the root unit, whose parameters are gathered for the whole pass.
    apart = [] if weights[0] is weights[1] else [module for module in ends if module is not None]
    pinned = shards.device.type == "cuda"
    policy = CPUOffloadPolicy(pin_memory=pinned) if shards.offload else OffloadPolicy()
    for module in (*apart, *layers, model):  # from the inside out
        if module is model or any(p not in ignored for p in module.parameters()):
            fully_shard(
                module,
                mesh=shards.mesh,
                reshard_after_forward=True,
                ignored_params=ignored,
                offload_policy=policy,
            )
    return model


def place(model: PreTrainedModel, shards: Shards) -> None:
    """Move the shards to the device and run a first pass, which allocates what is gathered.

    What is allocated in inference mode, by an evaluation, could not be trained with.
    """
    if not shards.offload:
        model.to(shards.device)
    to_device(model, shards.device)
    with torch.no_grad():
        _smallest_pass(model)


def to_device(model: Model, device: torch.device) -> Model:
    """Move a model to a device; of a sharded one, all but the shards, which are in place."""
    if not is_sharded(model):
        return model.to(device)
    for tensor in (*model.parameters(), *model.buffers()):
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(device)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether a model, with or without an adapter, is sharded by this module."""
    return isinstance(_base(model), FSDPModule)


@contextmanager
def in_step(model: nn.Module) -> Iterator[None]:
    """Inside, each process may run any number of forward passes of a sharded model.

    Every pass begins with an all-reduce that says whether any process still works. One that has
    left the block runs passes of a single token until all have left it. Without sharding, nothing
    is done.
    """
    base: Any = _base(model)
    if not is_sharded(model):
        yield
        return

    def announce(*_: Any) -> None:
        _any_works(base, works=True)

    hook = base.register_forward_pre_hook(announce, prepend=True)
    try:
        yield
    finally:
        hook.remove()
    with torch.no_grad():
        while _any_works(base, works=False):
            _smallest_pass(base)


@contextmanager
def gathered(model: nn.Module, module: nn.Module) -> Iterator[None]:
    """Inside, the parameters of a module of the model are whole; call it on every process."""
    if not is_sharded(model):
        yield
        return
    units = [one for one in _base(model).modules() if isinstance(one, FSDPModule)]
    around = [one for one in units if any(part is module for part in one.modules())]
    inside = [one for one in module.modules() if isinstance(one, FSDPModule)]
    needed: list[Any] = [*around, *inside]
    for unit in needed:
        unit.unshard()
    try:
        yield
    finally:
        for unit in needed:
            unit.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """The unsharded tensor; a collective if it is sharded, so call it on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _base(model: nn.Module) -> nn.Module:
    base: nn.Module = getattr(model, "get_base_model", lambda: model)()
    return base


def _device(base: Any) -> torch.device:
    """Where the model computes; its shards may be elsewhere."""
    mesh = next(p.device_mesh for p in base.parameters() if isinstance(p, DTensor))
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.get_device_module().current_device())


def _any_works(base: Any, *, works: bool) -> bool:
    flag = torch.tensor(int(works), device=_device(base))
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag)


def _smallest_pass(base: Any) -> None:
    device = _device(base)
    if base.main_input_name == "pixel_values":
        size = base.config.image_size
        sides = [size, size] if isinstance(size, int) else size
        base(pixel_values=torch.zeros(1, base.config.num_channels, *sides, device=device))
    else:
        base(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device))
