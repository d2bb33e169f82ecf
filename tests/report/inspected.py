"""Synthetic measurements of a TopLoRA adapter: two layers, two kinds, two directions."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from toplora_train.report.inspection import (
    FixedScore,
    GateView,
    Inspection,
    ModuleGates,
    ModuleUpdate,
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
    updates = [
        ModuleUpdate(
            module,
            layer=place // 2,
            kind=f"model.layers.*.self_attn.{('q_proj', 'v_proj')[place % 2]}",
            rank=2,
            norm=1.0 + place,
            relative_norm=0.01 * (1 + place),
            effective_rank=1.5,
            singular_values=[1.0 + place, 0.5],
        )
        for place, module in enumerate(MODULES)
    ]
    modules = [
        ModuleGates(module, [1.1, 0.9], [0.3, 0.2], [[0.1, 0.5, 1, 2, 3]] * 2, [], [])
        for module in MODULES
    ]
    difference = {"value": 0.1, "ci95": [-0.05, 0.25], "p": 0.2, "detectable": 0.3}
    scores = {"arithmetic": FixedScore(40, 0.5, 0.4, 0.45, difference, difference)}
    one = Inspection(
        "TOPLORA",
        "owner/base",
        updates,
        gates=GateView(6, ["task, row 1", "your text <i>"], modules, scores),
    )
    rows = [
        {"text": text, "position": at, "token": token, "module": module}
        | {"gates": gate(text, at, place)}
        for text, tokens in enumerate(TOKENS)
        for at, token in enumerate(tokens)
        for place, module in enumerate(MODULES)
    ]
    (folder / "inspection").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "inspection" / "gates.parquet")
    write_inspection(folder / "inspection", one)
    return one
