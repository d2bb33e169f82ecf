"""Labelled images as rows: a folder per class, or a column of images in a table.

``FOLDER/CLASS/FILE.png``, or ``FOLDER/SPLIT/CLASS/FILE.png``. In such a row the image's SHA-256
stands for the question, so copies of test images among the training rows are found under any name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.reading import read_bytes
from toplora_train.data.fields import shown
from toplora_train.data.tables import ClassNumber

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def labelled_images(folder: Path, split: str) -> list[tuple[Path, ClassNumber]]:
    """The images of a folder per class; none if no subfolder has an image.

    Args:
        folder: Its subfolders are the classes, or have the names of splits and hold the classes.
        split: The split to read, where the subfolders are splits.

    Raises:
        UserError: A class has no image, or a file is no image or lies outside the classes.
    """
    inner = folder / split
    if inner.is_dir() and any(path.is_dir() for path in inner.iterdir()):
        folder = inner
    entries = _visible(folder)
    classes = {path: _visible(path) for path in entries if path.is_dir()}
    if not any(_is_image(path) for files in classes.values() for path in files):
        return []
    outside = next((path for path in entries if path not in classes), None)
    if outside is not None:
        raise UserError(f"{outside}: lies outside the classes' folders; move or remove it")
    found = []
    for number, (of_class, files) in enumerate(classes.items()):
        if not files:
            raise UserError(f"{of_class}: this class has no images; add some or remove the folder")
        label = ClassNumber(number)
        label.name = of_class.name
        for path in files:
            if not _is_image(path):
                raise UserError(
                    f"{path}: is no image by its name (known: {', '.join(SUFFIXES)}); move or "
                    "remove it"
                )
            found.append((path, label))
    return found


def find_image(fields: Mapping[object, object], key: str, place: str) -> tuple[Path | bytes, str]:
    """An image of a record, not decoded: a file or its content, and the SHA-256 of the content.

    Raises:
        UserError: The value is no image, or the file cannot be read.
    """
    value = fields[key]
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None and isinstance(value, dict):  # of datasets, with the image in a file
        content = Path(str(value.get("path")))
    if isinstance(content, Path):
        return content, hashlib.sha256(read_bytes(content, limit=None)).hexdigest()
    if not isinstance(content, bytes):
        raise UserError(f"{place}: '{key}' is {shown(value)}, not an image's content")
    return content, hashlib.sha256(content).hexdigest()


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES
