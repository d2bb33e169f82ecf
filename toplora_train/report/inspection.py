"""What was measured inside an adapter: ``inspection/inspection.json`` of a run, and its pages.

The token's gates are in ``inspection/gates.parquet``, a row for each token of the texts shown and
each layer: ``text`` (its number), ``position``, ``token``, ``module`` and ``gates``, a list of r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import plain_json, write_json_atomically
from toplora_train.config.printable import printable
from toplora_train.config.reading import read_json, validate
from toplora_train.data.tables import parquet_rows
from toplora_train.report.record import Finite, Measured, Whole

FOLDER, FILE, GATES = "inspection", "inspection.json", "gates.parquet"
SCHEMA_VERSION = 1
PAGE_GATES = 200_000
"""Gates in the page, about three bytes each; all are in ``gates.parquet``."""


@dataclass(frozen=True)
class ModuleUpdate:
    """A module's update, see :func:`toplora_train.adapters.updates.describe_update`."""

    module: str
    layer: Whole
    kind: str
    rank: Whole | None
    norm: Measured
    relative_norm: Measured
    effective_rank: Measured | None
    singular_values: list[Measured] | None
    magnitude: Measured | None = None
    direction: Measured | None = None


@dataclass(frozen=True)
class ModuleGates:
    """A module's gates, see :func:`toplora_train.adapters.gates.gate_statistics`."""

    module: str
    mean: list[Measured]
    deviation: list[Measured]
    quantiles: list[list[Measured]]
    dead: list[Whole]
    saturated: list[Whole]


@dataclass(frozen=True)
class PairedDifference:
    """Tuned minus fixed gates, see :class:`toplora_train.evaluation.paired.Difference`."""

    value: Finite
    ci95: tuple[Finite, Finite]
    p: Finite
    detectable: Finite


@dataclass(frozen=True)
class FixedScore:
    """A task's share of right answers as tuned and with fixed gates, and the paired differences."""

    rows: Whole
    tuned: Finite
    one: Finite
    mean: Finite
    over_one: PairedDifference
    over_mean: PairedDifference


@dataclass(frozen=True)
class GateView:
    """TopLoRA's gates: the tokens measured, the texts shown, and statistics by module."""

    tokens: Whole
    texts: list[str]
    modules: list[ModuleGates]
    scores: dict[str, FixedScore] = field(default_factory=dict)


@dataclass(frozen=True)
class FusionView:
    """The weights of fused adapters over ``tokens``: mean and deviation by layer and adapter."""

    adapters: list[str]
    tokens: Whole
    layers: list[str]
    mean: list[list[Measured]]
    deviation: list[list[Measured]]

    @property
    def overall(self) -> list[float]:
        """Each adapter's mean weight over all layers."""
        return [sum(column) / len(self.mean) for column in zip(*self.mean, strict=True)]


@dataclass(frozen=True)
class Matrix:
    """A square table of similarities, see :mod:`toplora_train.adapters.structure`."""

    title: str
    names: list[str]
    values: list[list[Measured]]


@dataclass(frozen=True)
class CoreEnergy:
    """The shares of a tensor's squared norm by direction of a mode, or by component."""

    tensor: str
    mode: str
    energy: list[Measured]


@dataclass(frozen=True)
class Functions:
    """GenLoRA's functions of the latent coordinate, one for each row of A or column of B."""

    latent: list[Measured]
    functions: list[list[Measured]]


@dataclass(frozen=True)
class Inspection:
    """The content of ``inspection.json``.

    Attributes:
        adapter: The adapter's PEFT type.
        base: The base model.
        updates: Its updates, by module.
        left_out: Adapted modules without numbers, and why.
        extras: Whether the costly parts were measured.
        gates: TopLoRA's gates.
        fusion: The weights of a fusion's adapters.
        similarities: TensLoRA's layers and projections.
        energies: TensLoRA's cores.
        functions: GenLoRA's functions by module, of the matrices ``A`` and ``B``.
    """

    adapter: str
    base: str
    updates: list[ModuleUpdate]
    left_out: dict[str, str] = field(default_factory=dict)
    extras: bool = True
    gates: GateView | None = None
    fusion: FusionView | None = None
    similarities: list[Matrix] = field(default_factory=list)
    energies: list[CoreEnergy] = field(default_factory=list)
    functions: dict[str, dict[str, Functions]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def write_inspection(folder: Path, inspection: Inspection) -> None:
    """Write ``inspection.json``."""
    write_json_atomically(folder / FILE, asdict(inspection))


def read_inspection(folder: Path) -> Inspection | None:
    """What was measured of a run's adapter; None if nothing was.

    Args:
        folder: The run.

    Raises:
        UserError: The file is there but cannot be read, or is of another schema version.
    """
    path = folder / FOLDER / FILE
    if not path.exists():
        return None
    values = read_json(path)
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path}: not of schema version {SCHEMA_VERSION}; measure again with toplora-inspect"
        )
    return validate(Inspection, values, str(path))


def inspection_view(folder: Path) -> dict[str, Any] | None:
    """What the page of a run shows of its adapter; None if it was not measured.

    Returns:
        ``one`` (the :class:`Inspection`), ``page`` (for the page's script: the grid of layers and
        kinds with each quantity, singular values, gates), ``kinds`` (their short names), ``named``
        (the dead and the saturated directions; empty without any) and ``cut`` (texts cut).

    Raises:
        UserError: A file is there but cannot be read.
    """
    one = read_inspection(folder)
    if one is None:
        return None
    layers = sorted({update.layer for update in one.updates})
    kinds = list(dict.fromkeys(update.kind for update in one.updates))
    at = {(update.kind, update.layer): update for update in one.updates}

    def grid(values: Mapping[str, Any]) -> list[list[Any]]:
        """By kind and layer; None where there is no such module."""
        return [
            [
                values.get(at[kind, layer].module) if (kind, layer) in at else None
                for layer in layers
            ]
            for kind in kinds
        ]

    page: dict[str, Any] = {
        "layers": layers,
        "kinds": short_names(kinds),
        "modules": grid({update.module: printable(update.module) for update in one.updates}),
        "ranks": grid({update.module: update.rank for update in one.updates}),
        "quantities": [
            {"title": title, "values": grid(found)}
            for title, found in _quantities(one).items()
            if any(value is not None for value in found.values())
        ],
        "singular": grid(
            {update.module: _rounded(update.singular_values) for update in one.updates}
        ),
        "similarities": [asdict(matrix) for matrix in one.similarities],
        "energies": _mean_energies(one.energies),
        "functions": grid(_rounded(asdict(one)["functions"])),
        "changes": [
            [update.module, update.magnitude, update.direction]
            for update in one.updates
            if update.magnitude is not None
        ],
    }
    cut = 0
    if one.gates is not None:
        page["gates"], cut = _gates(one.gates, folder / FOLDER / GATES, grid)
    names = dict(zip(kinds, page["kinds"], strict=True))
    page = plain_json(page)
    return {"one": one, "page": page, "cut": cut, "kinds": names, "named": _named(one, names)}


def _named(one: Inspection, names: Mapping[str, str]) -> dict[str, list[str]]:
    """The dead and the saturated directions in words."""
    places = {
        update.module: f"{names[update.kind]} of layer {update.layer}" for update in one.updates
    }
    found: dict[str, list[str]] = {}
    for gates in one.gates.modules if one.gates is not None else ():
        where = places.get(gates.module, gates.module)
        for what, directions in (("dead", gates.dead), ("saturated", gates.saturated)):
            found.setdefault(what, []).extend(f"{number} of {where}" for number in directions)
    return found if any(found.values()) else {}


def short_names(kinds: Sequence[str]) -> list[str]:
    """The shortest endings of dotted names that are still different: ``q_proj``."""
    found = []
    for kind in kinds:
        parts = kind.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        others = [f".{other}" for other in kinds if other != kind]
        found.append(
            printable(
                next((e for e in endings if not any(o.endswith(f".{e}") for o in others)), kind)
            )
        )
    return found


def _quantities(one: Inspection) -> dict[str, dict[str, float | None]]:
    """The quantities of the heat map: title, and a value by module."""
    found: dict[str, dict[str, float | None]] = {
        "norm relative to the weight": {u.module: u.relative_norm for u in one.updates},
        "effective rank": {u.module: u.effective_rank for u in one.updates},
        "change of magnitude": {u.module: u.magnitude for u in one.updates},
        "change of direction": {u.module: u.direction for u in one.updates},
    }
    if one.gates is not None:
        found["mean gate"] = {m.module: _mean(m.mean) for m in one.gates.modules}
        found["spread of the gate"] = {m.module: _mean(m.deviation) for m in one.gates.modules}
    return found


def _gates(view: GateView, file: Path, grid: Any) -> tuple[dict[str, Any], int]:
    """The gates for the page's script, and how many texts are cut or left out in it."""
    texts: list[dict[str, Any]] = [
        {"title": printable(title), "tokens": [], "values": {}} for title in view.texts
    ]
    try:
        for row in parquet_rows(file) if file.exists() else []:
            text = texts[row["text"]]
            values = text["values"].setdefault(row["module"], [])
            values.append([float(f"{gate:.3g}") for gate in row["gates"]])
            if len(values) > len(text["tokens"]):
                text["tokens"].append(printable(str(row["token"])))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not gates that toplora-inspect wrote ({error!r})") from None
    texts = [text for text in texts if text["tokens"]]
    cut = _fit(texts)
    return {
        "texts": [text | {"values": grid(text["values"])} for text in texts],
        "statistics": grid(
            {
                one.module: {
                    key: _rounded(getattr(one, key)) for key in ("mean", "deviation", "quantiles")
                }
                for one in view.modules
            }
        ),
    }, cut


def _fit(texts: list[dict[str, Any]]) -> int:
    """Cut the texts to what the page has room for; return how many are cut."""
    if not texts:
        return 0
    of_token = sum(len(values[0]) for values in texts[0]["values"].values())
    room, cut = PAGE_GATES // max(1, of_token * len(texts)), 0
    for text in texts:
        cut += len(text["tokens"]) > room
        text["tokens"] = text["tokens"][:room]
        text["values"] = {module: values[:room] for module, values in text["values"].items()}
    return cut


def _mean_energies(energies: Sequence[CoreEnergy]) -> list[dict[str, Any]]:
    """The energies by mode, as means over the tensors."""
    found = []
    for mode in dict.fromkeys(one.mode for one in energies):
        rows = [one.energy for one in energies if one.mode == mode]
        width = max(map(len, rows))
        padded = [[*row, *[0.0] * (width - len(row))] for row in rows]
        found.append(
            {"mode": mode, "energy": [_mean(column) for column in zip(*padded, strict=True)]}
        )
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _rounded(value: Any) -> Any:
    """Numbers to four digits, which is what the page shows."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
