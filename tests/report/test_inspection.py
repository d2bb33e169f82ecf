import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.report.inspected import LAYERS, MODULES, inspected
from toplora_train.config.errors import UserError
from toplora_train.report import inspection
from toplora_train.report.inspection import (
    CoreEnergy,
    inspection_view,
    read_inspection,
    short_names,
    write_inspection,
)


def test_what_was_written_is_read_again(tmp_path: Path):
    assert read_inspection(tmp_path) is None
    assert inspection_view(tmp_path) is None
    one = inspected(tmp_path)
    assert read_inspection(tmp_path) == one


def test_the_page_has_each_quantity_by_kind_and_layer(tmp_path: Path):
    one = inspected(tmp_path)
    page = inspection_view(tmp_path)["page"]
    assert page["layers"] == list(range(LAYERS))
    assert page["kinds"] == ["q_proj", "v_proj"]
    titles = [quantity["title"] for quantity in page["quantities"]]
    assert titles == [
        "norm relative to the weight",
        "effective rank",
        "mean gate",
        "spread of the gate",
    ]
    by_module = {update.module: update for update in one.updates}
    for quantity, name in zip(
        page["quantities"], ("relative_norm", "effective_rank"), strict=False
    ):
        for row, kind in enumerate(("q_proj", "v_proj")):
            for layer in range(LAYERS):
                update = by_module[f"model.layers.{layer}.self_attn.{kind}"]
                assert quantity["values"][row][layer] == getattr(update, name)
    gates = {entry.module: entry for entry in one.gates.modules}
    mean = sum(gates[MODULES[0]].mean) / 2
    assert page["quantities"][2]["values"][0][0] == pytest.approx(mean)


def test_the_gates_of_a_text_are_those_of_the_table(tmp_path: Path):
    inspected(tmp_path)
    view = inspection_view(tmp_path)
    rows = pq.read_table(tmp_path / "inspection" / "gates.parquet").to_pylist()
    (first, second) = view["page"]["gates"]["texts"]
    assert first["title"] == "task, row 1"
    assert first["tokens"] == ["The", " box", "\\x1b[31m", "<b>"]  # nothing controls a terminal
    for kind, of_layers in enumerate(first["values"]):
        for layer, values in enumerate(of_layers):
            module = f"model.layers.{layer}.self_attn.{('q_proj', 'v_proj')[kind]}"
            expected = [
                row["gates"] for row in rows if row["module"] == module and row["text"] == 0
            ]
            assert values == [pytest.approx(gates, rel=5e-3) for gates in expected]
    assert (len(second["tokens"]), view["cut"]) == (2, 0)


def test_dead_and_saturated_directions_are_named(tmp_path: Path):
    one = inspected(tmp_path)
    assert inspection_view(tmp_path)["named"] == {}
    gates = one.gates.modules
    changed = [replace(gates[0], dead=[2]), replace(gates[1], saturated=[1]), *gates[2:]]
    write_inspection(
        tmp_path / "inspection", replace(one, gates=replace(one.gates, modules=changed))
    )
    assert inspection_view(tmp_path)["named"] == {
        "dead": ["2 of q_proj of layer 0"],
        "saturated": ["1 of v_proj of layer 0"],
    }


def test_texts_are_cut_to_what_the_page_has_room_for(tmp_path: Path, monkeypatch):
    inspected(tmp_path)
    monkeypatch.setattr(inspection, "PAGE_GATES", 3 * 2 * 2 * len(MODULES))
    view = inspection_view(tmp_path)
    assert [len(text["tokens"]) for text in view["page"]["gates"]["texts"]] == [3, 2]
    assert view["cut"] == 1
    assert [len(values) for values in view["page"]["gates"]["texts"][0]["values"][0]] == [
        3
    ] * LAYERS


def test_an_absent_module_leaves_a_gap_and_a_missing_table_no_texts(tmp_path: Path):
    one = inspected(tmp_path)
    write_inspection(tmp_path / "inspection", replace(one, updates=one.updates[1:]))
    (tmp_path / "inspection" / "gates.parquet").unlink()
    page = inspection_view(tmp_path)["page"]
    assert page["modules"][page["kinds"].index("q_proj")][0] is None
    assert page["gates"]["texts"] == []


def test_energies_are_means_over_the_tensors(tmp_path: Path):
    one = inspected(tmp_path)
    energies = [CoreEnergy("a", "input", [0.75, 0.25]), CoreEnergy("b", "input", [1.0])]
    write_inspection(tmp_path / "inspection", replace(one, energies=energies))
    assert inspection_view(tmp_path)["page"]["energies"] == [
        {"mode": "input", "energy": [0.875, 0.125]}
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, "not of schema version 1; measure again with toplora-inspect"),
        ({"updates": [{"module": 3}]}, "'updates.0.module' must be"),
    ],
)
def test_a_strange_file_is_one_line_that_names_it(tmp_path: Path, change: dict, message: str):
    inspected(tmp_path)
    path = tmp_path / "inspection" / "inspection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as error:
        inspection_view(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "table",
    [
        {"text": [7], "token": ["a"], "module": ["m"], "gates": [[1.0]]},
        {"text": [0], "token": ["a"], "module": ["m"], "gates": [None]},
        {"words": ["a"]},
    ],
)
def test_a_strange_table_is_one_line_that_names_it(tmp_path: Path, table: dict):
    inspected(tmp_path)
    path = tmp_path / "inspection" / "gates.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(UserError, match=r"gates\.parquet: not gates that toplora-inspect wrote"):
        inspection_view(tmp_path)


def test_names_are_as_short_as_they_can_be():
    assert short_names(["a.*.q_proj", "a.*.v_proj"]) == ["q_proj", "v_proj"]
    assert short_names(["encoder.*.q", "decoder.*.q"]) == ["encoder.*.q", "decoder.*.q"]
    assert short_names(["a.*.out.dense", "a.*.in.dense", "dense"]) == [
        "out.dense",
        "in.dense",
        "dense",
    ]
