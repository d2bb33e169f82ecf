import csv
import io
from pathlib import Path

import pytest

from tests.report.test_comparison import two
from toplora_train.report.comparison_csv import comparison_csv, harmless


def test_there_is_a_row_per_method_and_per_pair_and_measurement(tmp_path: Path):
    document = two(tmp_path)
    rows = list(csv.DictReader(io.StringIO(comparison_csv(document))))
    assert [(row["row"], row["method"], row["measurement"]) for row in rows] == [
        ("method", "toplora", ""),
        ("method", "lora", ""),
        ("comparison", "toplora", "average"),
        ("comparison", "toplora", "t"),
        ("comparison", "toplora", "u"),
    ]
    assert float(rows[0]["average"]) == document["methods"][0]["average"]
    assert float(rows[0]["score t"]) == document["methods"][0]["tasks"]["t"]
    found = document["comparisons"][0]["average"]
    assert float(rows[2]["value"]) == found["value"]
    assert float(rows[2]["low"]) == found["ci95"][0]
    assert rows[2]["against"] == "lora"


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@SUM(A1)", "\tx"])
def test_text_that_a_spreadsheet_would_run_is_made_harmless(text):
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("value", ["lora", -0.5, None])
def test_other_values_stay(value):
    assert harmless(value) == value
