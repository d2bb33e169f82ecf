"""Synthetic measurements of a TopLoRA adapter: two layers, two kinds, two directions."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from toplora_train.report.inspection import (
    CoreEnergy,
    FixedScore,
    Functions,
    FusionView,
    GateView,
    Inspection,
    Matrix,
    ModuleGates,
    ModuleUpdate,
    PairedDifference,
    write_inspection,
)

LAYERS = 2
MODULES = [
    f"model.layers.{layer}.self_attn.{kind}"
    for layer in range(LAYERS)
    for kind in ("q_proj", "v_proj")
]
TOKENS = [["The", " box", "\x1b[31m", "<b>"], ["\u202eYes", "."]]


def gate(text: int, position: int, place: int) -> list[float]:
    """Different for each token, module and direction, on both sides of one."""
    return [0.25 * 1.7 ** ((text + 2 * position + place) % 5), 2.0 / (1 + position + place)]


def inspected(folder: Path) -> Inspection:
    """Write the files of ``folder/inspection``."""
    rows = [
        {"text": text, "position": at, "token": token, "module": module}
        | {"gates": gate(text, at, place)}
        for text, tokens in enumerate(TOKENS)
        for at, token in enumerate(tokens)
        for place, module in enumerate(MODULES)
    ]
    return _write(folder, MODULES, ["task, row 1", "your text <i>"], rows)


def inspected_otherwise(folder: Path) -> Inspection:
    """What DoRA, TensLoRA and GenLoRA have, in one: changes, tensors, functions."""
    one = inspected(folder)
    functions = Functions([-2.0, 0.0, 2.0], [[0.0, 1.0, 0.5], [0.25, -1.0, 0.0]])
    one = replace(
        one,
        gates=None,
        updates=[
            replace(update, magnitude=0.1 + place, direction=0.2) if place else update
            for place, update in enumerate(one.updates)
        ],
        left_out={"model.embed_tokens": "not a linear layer"},
        similarities=[Matrix("cosine of the layers", ["0", "1"], [[1.0, -0.5], [-0.5, 1.0]])],
        energies=[CoreEnergy("", "input", [0.75, 0.25]), CoreEnergy("", "layer", [1.0])],
        functions={MODULES[3]: {"A": functions, "B": functions}},
        fusion=FusionView(
            ["one", "two <i>"], 40, ["model.layers.0"], mean=[[0.75, 0.3]], deviation=[[0.1, 0.2]]
        ),
    )
    write_inspection(folder / "inspection", one)
    return one


def inspected_large(folder: Path) -> Inspection:
    """Write the files of an adapter with 32 layers of three modules and random gates."""
    modules = [
        f"model.layers.{layer}.self_attn.{kind}"
        for layer in range(32)
        for kind in ("q_proj", "k_proj", "v_proj")
    ]
    random = Random(1)
    rows = [
        {"text": text, "position": at, "token": f" word{at}", "module": module}
        | {"gates": [random.lognormvariate(0, 1) for _ in range(8)]}
        for text in range(4)
        for at in range(96)
        for module in modules
    ]
    return _write(folder, modules, [f"row {text}" for text in range(4)], rows)


def _write(folder: Path, names: list[str], titles: list[str], rows: list[dict]) -> Inspection:
    r = len(rows[0]["gates"])
    updates = [
        ModuleUpdate(
            module,
            layer=int(module.split(".")[2]),
            kind=f"model.layers.*.self_attn.{module.rpartition('.')[2]}",
            rank=r,
            norm=1.0 + place,
            relative_norm=0.01 * (1 + place),
            effective_rank=1.5,
            singular_values=[1.0 + place, 0.5],
        )
        for place, module in enumerate(names)
    ]
    modules = [
        ModuleGates(
            module, [1.1, 0.9] * (r // 2), [0.3, 0.2] * (r // 2), [[0.1, 0.5, 1, 2, 3]] * r, [], []
        )
        for module in names
    ]
    difference = PairedDifference(0.1, (-0.05, 0.25), p=0.2, detectable=0.3)
    scores = {"arithmetic": FixedScore(40, 0.5, 0.4, 0.45, difference, difference)}
    one = Inspection(
        "TOPLORA",
        "owner/base",
        updates,
        gates=GateView(len(rows) // len(names), titles, modules, scores),
    )
    (folder / "inspection").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "inspection" / "gates.parquet")
    write_inspection(folder / "inspection", one)
    return one
