"""The page of an adapter that belongs to no run."""

from __future__ import annotations

from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import write_text_atomically
from toplora_train.report.inspection import FOLDER, inspection_view
from toplora_train.report.pages import render_page


def write_inspection_page(folder: Path) -> Path:
    """Write ``folder/inspection/inspection.html`` and return its path.

    Raises:
        UserError: The adapter was not measured, or a file cannot be read.
    """
    view = inspection_view(folder)
    if view is None:
        raise UserError(f"{folder / FOLDER}: no inspection.json; measure with toplora-inspect")
    path = folder / FOLDER / "inspection.html"
    write_text_atomically(path, render_page("inspection.html.j2", view))
    return path
