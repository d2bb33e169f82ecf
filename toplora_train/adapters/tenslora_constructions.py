"""The seven constructions of TensLoRA: the tensors, and each module's position in them.

| construction  | modes of a tensor                                | one tensor per    |
| ------------- | ------------------------------------------------ | ----------------- |
| att           | input x coordinate x head                        | projection, layer |
| qkv           | input x output x projection                      | layer             |
| depth         | input x output x layer                           | projection        |
| att_qkv       | input x coordinate x head x projection           | layer             |
| att_depth     | input x coordinate x head x layer                | projection        |
| qkv_depth     | input x output x projection x layer              | model             |
| att_qkv_depth | input x coordinate x head x projection x layer   | model             |

Layer and projection follow from a module's name. If all targets are query, key and value
projections each attention is a layer: ``model.layers.3.self_attn.q_proj`` is projection ``q_proj``
of layer ``model.layers.3.self_attn``. Otherwise the layer's name ends with the last number:
projection ``self_attn.q_proj`` of layer ``model.layers.3``. Layers are numbered in order of
occurrence, so an encoder's and a decoder's, or a subset of layers, share one layer mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from toplora_train.adapters.targets import ATTENTION_PROJECTIONS

CONSTRUCTIONS = ("att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth", "att_qkv_depth")

_SEPARATE = [names for names in ATTENTION_PROJECTIONS if len(names) == 3]
_POSITIONS = {name: index for names in _SEPARATE for index, name in enumerate(names)}
_KEYS_AND_VALUES = {name for names in _SEPARATE for name in names[1:]}
_FUSED = {names[0] for names in ATTENTION_PROJECTIONS if len(names) == 1}


class Features(NamedTuple):
    """The width of a linear module's input and output."""

    inputs: int
    outputs: int


class Heads(NamedTuple):
    """The query heads: their number, and the coordinates of each."""

    number: int
    size: int


@dataclass(frozen=True)
class Slot:
    """The position of a module's update: its tensor, and the indices into the small modes.

    Args:
        tensor: The tensor's label, such as ``q_proj`` or ``q_proj_3``; empty for a single one.
        sizes: The size of each of the tensor's modes.
        rows: The module's index in each of the last ``len(rows)`` modes.
        repeats: Query heads per head of the module (grouped-query attention); else 1.
        head_size: Coordinates per head if ``repeats`` exceeds 1; else 0.
    """

    tensor: str
    sizes: tuple[int, ...]
    rows: tuple[int, ...]
    repeats: int = 1
    head_size: int = 0


def modes(construction: str) -> tuple[str, ...]:
    """The names of a tensor's modes, in order."""
    parts = construction.split("_")
    return (
        "input",
        *(("coordinate", "head") if "att" in parts else ("output",)),
        *(("projection",) if "qkv" in parts else ()),
        *(("layer",) if "depth" in parts else ()),
    )


def slots(
    targets: Mapping[str, Features], construction: str, heads: Heads | None
) -> dict[str, Slot]:
    """The slot of each target module.

    Args:
        targets: All adapted modules by dotted name, in the model's order.
        construction: One of :data:`CONSTRUCTIONS`.
        heads: The model's query heads; None if unknown.

    Raises:
        ValueError: The construction does not fit these modules.
    """
    _validate_unfused(targets, construction)
    attention_only = all(_last(name) in _POSITIONS for name in targets)
    split = _attention_and_projection if attention_only else _layer_and_projection
    places = {name: split(name) for name in targets}
    layers_of: dict[str, dict[str, int]] = {}
    for layer, projection in places.values():
        indices = layers_of.setdefault(projection, {})
        indices[layer] = len(indices)
    projections = _in_order(layers_of)
    if "projection" in modes(construction):
        _validate_no_gaps(layers_of, construction)
    found = {}
    for name, (layer, projection) in places.items():
        width, repeats = _width(name, targets[name].outputs, heads)
        sizes = {
            "input": targets[name].inputs,
            **_output_sizes(name, width, construction, heads),
            "projection": len(projections),
            "layer": len(layers_of[projection]),
        }
        index = {
            "projection": projections.index(projection),
            "layer": layers_of[projection][layer],
        }
        label = {"projection": _short(projection, projections), "layer": str(index["layer"])}
        small = [mode for mode in modes(construction) if mode in index]
        found[name] = Slot(
            tensor="_".join(label[mode] for mode in label if mode not in small),
            sizes=tuple(sizes[mode] for mode in modes(construction)),
            rows=tuple(index[mode] for mode in small),
            repeats=repeats,
            head_size=heads.size if heads is not None and repeats > 1 else 0,
        )
    _validate_shapes(found, targets, construction)
    return found


# -- names -----------------------------------------------------------------------------------------


def _attention_and_projection(name: str) -> tuple[str, str]:
    """``model.layers.3.self_attn.q_proj`` -> ``model.layers.3.self_attn``, ``q_proj``."""
    attention, _, projection = name.rpartition(".")
    return attention, projection


def _layer_and_projection(name: str) -> tuple[str, str]:
    """``model.layers.3.self_attn.q_proj`` -> ``model.layers.3``, ``self_attn.q_proj``."""
    parts = name.split(".")
    end = max((i + 1 for i, part in enumerate(parts[:-1]) if part.isdecimal()), default=0)
    return ".".join(parts[:end]), ".".join(parts[end:])


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _in_order(projections: Iterable[str]) -> list[str]:
    """Known query, key and value projections first, then the others in the model's order."""
    return sorted(projections, key=lambda projection: _POSITIONS.get(_last(projection), 3))


def _short(projection: str, projections: Sequence[str]) -> str:
    """``dense`` if no other projection has that name, else ``attention_output_dense``."""
    same = [other for other in projections if _last(other) == _last(projection)]
    return _last(projection) if len(same) == 1 else projection.replace(".", "_")


# -- shapes ----------------------------------------------------------------------------------------


def _width(name: str, outputs: int, heads: Heads | None) -> tuple[int, int]:
    """A module's outputs in its tensor, and how many of them are averaged into one."""
    if heads is None or _last(name) not in _KEYS_AND_VALUES or outputs >= heads.number * heads.size:
        return outputs, 1
    width = heads.number * heads.size
    if outputs % heads.size or width % outputs:
        raise ValueError(
            f"target_modules matches {name}, whose {outputs} outputs are not key/value heads of "
            f"{heads.size} that {heads.number} query heads could share evenly"
        )
    return width, width // outputs


def _output_sizes(name: str, width: int, construction: str, heads: Heads | None) -> dict[str, int]:
    if "head" not in modes(construction):
        return {"output": width}
    if heads is None:
        raise ValueError(
            f"construction {construction!r} has a mode for attention heads, but the model's config "
            f"has no num_attention_heads; use {_instead(construction, 'att')}"
        )
    if width % heads.number:
        raise ValueError(
            f"construction {construction!r} splits outputs into {heads.number} heads, which does "
            f"not divide the {width} outputs of {name}; leave it out of target_modules"
        )
    return {"head": heads.number, "coordinate": width // heads.number}


def _instead(construction: str, without: str) -> str:
    rest = "_".join(part for part in construction.split("_") if part != without)
    return f"construction={rest or 'depth'}"


def _validate_unfused(targets: Mapping[str, Features], construction: str) -> None:
    fused = next((name for name in targets if _last(name) in _FUSED), None)
    if fused is not None and construction != "depth":
        raise ValueError(
            f"construction {construction!r} needs query, key and value as separate linear layers, "
            f"but {fused} fuses all three; use construction=depth, or another adapter"
        )


def _validate_no_gaps(layers_of: Mapping[str, Mapping[str, int]], construction: str) -> None:
    layers = dict.fromkeys(layer for of_projection in layers_of.values() for layer in of_projection)
    for projection, present in layers_of.items():
        missing = next((layer for layer in layers if layer not in present), None)
        if missing is not None:
            raise ValueError(
                f"construction {construction!r} needs the same target modules in every layer, but "
                f"{missing or 'the model itself'} has no {projection}; exclude it by "
                f"target_modules or exclude_modules, or use {_instead(construction, 'qkv')}, "
                "which has a tensor per projection"
            )


def _validate_shapes(
    found: Mapping[str, Slot], targets: Mapping[str, Features], construction: str
) -> None:
    first: dict[str, str] = {}
    for name, slot in found.items():
        other = first.setdefault(slot.tensor, name)
        if found[other].sizes != slot.sizes:
            joint = "projection" in modes(construction)
            raise ValueError(
                f"construction {construction!r} needs modules of the same shape in a tensor, but "
                f"{name} is {targets[name].inputs} -> {targets[name].outputs} and {other} is "
                f"{targets[other].inputs} -> {targets[other].outputs}; exclude one by "
                "target_modules or exclude_modules"
                + (f", or use {_instead(construction, 'qkv')}" if joint else "")
            )
