import re
from pathlib import Path

import pytest

from tests.report.test_comparison import two
from toplora_train.report.comparison_tables import (
    ESCAPES,
    Cell,
    Table,
    adapters,
    by_task,
    comparison_tables,
    costs,
    differences,
    latex_tables,
    latex_text,
    leaderboard,
    learning_rate_table,
)


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_the_tables_without_rows_are_left_out(tmp_path: Path):
    titles = [table.title for table in comparison_tables(two(tmp_path))]
    assert titles == [
        "Leaderboard",
        "Cost, step times relative to lora",
        "Differences on average",
        "Differences by task",
    ]


def test_a_cell_sorts_by_its_number(tmp_path: Path):
    document = two(tmp_path)
    table = leaderboard(document)
    assert table.headings == ["method", "average", "t", "u", "seeds", "parameters"]
    assert table.numeric == [False, True, True, True, True, True]
    assert table.rows[0][1].number == document["methods"][0]["average"]


def test_costs_that_the_folders_do_not_have_are_left_out(tmp_path: Path):
    document = two(tmp_path)
    assert costs(document).headings == [
        "method",
        "parameters",
        "peak memory",
        "training",
        "evaluation",
    ]
    for method, step in zip(document["methods"], (0.25, 2.0), strict=True):
        method |= {"step_seconds": step, "relative_step": step / 0.2, "adapter_bytes": 2048}
    assert texts(costs(document))[0][2:6] == [
        "250 ms",
        "\N{MULTIPLICATION SIGN} 1.25",
        "2.0 GiB",
        "2 KiB",
    ]


def test_only_significant_pairs_are_kept(tmp_path: Path):
    document = two(tmp_path)
    assert len(differences(document, significant_only=True).rows) == 1
    document["comparisons"][0]["average"]["p_adjusted"] = 0.2
    assert differences(document, significant_only=True).rows == []
    assert [row[1].text for row in by_task(document).rows] == ["t", "u"]


@pytest.mark.parametrize(
    ("metric", "shown"), [("validation loss", "0.5000"), ("accuracy", "50.0 %")]
)
def test_the_best_rate_and_those_as_good_are_marked(metric, shown):
    points = [{"rate": rate, "mean": 0.5, "values": [0.5]} for rate in (1e-4, 2.5e-4, 1e-3)]
    curve = {"best": 1e-4, "near": [2.5e-4], "edge": None, "points": points}
    rates = {"metric": metric, "curves": {"lora": curve}}
    assert texts(learning_rate_table(rates)) == [
        ["lora", "1e-4", shown, "1", "best"],
        ["lora", "2.5e-4", shown, "1", "within 1 SE"],
        ["lora", "1e-3", shown, "1", ""],
    ]


def test_an_optional_column_is_kept_if_any_row_has_it():
    table = Table(
        "", ["a", "b", "c"], [[Cell("x"), Cell(""), Cell("")], [Cell("y"), Cell("1", 1), Cell("")]]
    )
    assert table.without("b", "c").headings == ["a", "b"]


def test_the_angles_between_adapters_are_means_over_the_layers(tmp_path: Path):
    document = two(tmp_path)
    assert adapters(document).rows == []
    modules = [
        {"module": f"model.layers.{layer}.self_attn.q_proj", "overlap": overlap, "chance": 0.125}
        | {"outputs": [10.0 + layer, 90.0], "inputs": [60.0, 80.0 + 2 * layer]}
        for layer, overlap in enumerate((0.5, 0.25))
    ]
    document["adapters"] = [{"first": "lora", "second": "dora", "modules": modules}]
    assert texts(adapters(document)) == [
        ["dora vs lora", "q_proj", "2", "0.375", "0.125", "10.5° to 90.0°", "60.0° to 81.0°"]
    ]
    assert adapters(document) in comparison_tables(document)


def test_a_table_is_a_plain_tabular():
    table = Table("A & B", ["method", "score"], [[Cell("x_1"), Cell("50.0 % ± 1", 0.5)]])
    assert latex_tables([table]).splitlines() == [
        "% A & B",
        r"\begin{tabular}{lr}",
        r"method & score \\",
        r"\hline",
        r"x\_1 & 50.0 \% $\pm$ 1 \\",
        r"\end{tabular}",
    ]


def test_no_special_character_is_left():
    special = "".join(ESCAPES)
    shown = latex_text(f"a{special}b\n\nc")
    for escape in sorted(ESCAPES.values(), key=len, reverse=True):
        shown = shown.replace(escape, "")
    assert shown == "ab c"
    assert not re.search(r"[&%$#_{}~^\\]", shown)
