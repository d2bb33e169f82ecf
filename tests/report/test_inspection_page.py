from pathlib import Path

import pytest

from tests.report.inspected import inspected
from toplora_train.config.errors import UserError
from toplora_train.report.inspection_page import write_inspection_page


def test_an_adapter_without_a_run_has_a_page_of_its_own(tmp_path: Path):
    inspected(tmp_path)
    path = write_inspection_page(tmp_path)
    text = path.read_text()
    assert path == tmp_path / "inspection" / "inspection.html"
    assert "<h1>TOPLORA on owner/base</h1>" in text
    assert "4 updated modules in 2 layers" in text
    assert "default-src 'none'" in text
    assert "your text &lt;i&gt;" in text
    assert "<i>" not in text


def test_without_measurements_there_is_no_page(tmp_path: Path):
    with pytest.raises(UserError, match=r"no inspection\.json; measure with toplora-inspect"):
        write_inspection_page(tmp_path)
