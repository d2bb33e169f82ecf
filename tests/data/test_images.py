"""Images come from a folder per class or a column; what is not one is named."""

import hashlib
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.files import read_folder
from toplora_train.data.images import find_image, labelled_images
from toplora_train.data.labels import parse_labelled


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {path.name}".encode())


def test_subfolders_are_classes_and_hidden_files_are_none_of_it(tmp_path):
    put(tmp_path, "dog/2.png", "dog/1.JPG", "cat/1.webp", "cat/.DS_Store", ".git/x.png")
    found = labelled_images(tmp_path, "train")
    assert [(path.name, int(label), label.name) for path, label in found] == [
        ("1.webp", 0, "cat"),
        ("1.JPG", 1, "dog"),
        ("2.png", 1, "dog"),
    ]
    records = list(read_folder(tmp_path, split="train"))
    assert [one.default_id for one in records] == ["cat/1.webp", "dog/1.JPG", "dog/2.png"]


def test_subfolders_named_after_splits_are_read_by_split(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/dog/2.png")
    assert [path.name for path, _ in labelled_images(tmp_path, "test")] == ["2.png"]
    put(tmp_path / "vehicles", "train/1.png", "car/1.png")  # a class of that name
    names = [label.name for _, label in labelled_images(tmp_path / "vehicles", "train")]
    assert names == ["car", "train"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat/1.png", "cat/notes.txt"], "cat/notes.txt: is no image by its name"),
        (["cat/1.png", "cat/more/2.png"], "cat/more: is no image by its name"),
        (["cat/1.png", "2.png"], "2.png: lies outside the classes"),
    ],
)
def test_nothing_in_the_folder_is_left_out_silently(tmp_path, names, said):
    put(tmp_path, *names)
    with pytest.raises(UserError, match=said):
        labelled_images(tmp_path, "train")


def test_a_class_without_images_and_a_folder_without_classes_are_named(tmp_path):
    put(tmp_path, "cat/1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="dog: this class has no images"):
        labelled_images(tmp_path, "train")
    with pytest.raises(UserError, match="or a folder of images per class"):
        list(read_folder(tmp_path / "dog", split="train"))


def test_a_row_is_identified_by_the_images_content_whatever_its_name(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    rows = [
        parse_labelled(
            record.fields,
            place=record.place,
            default_id=record.default_id,
            text="text",
            text_pair=None,
            image="image",
            label="label",
            choices=("a", "b"),
            named=True,
        )
        for record in read_folder(tmp_path, split="train")
    ]
    digest = hashlib.sha256(b"content of 1.png").hexdigest()
    assert rows[0].instruction == rows[1].instruction == f"image {digest}" != rows[2].instruction
    assert [row.answer for row in rows] == ["a", "b", "b"]
    assert rows[0].image == tmp_path / "a" / "1.png"


def test_a_column_holds_the_content_or_a_files_name_in_the_form_of_datasets(tmp_path):
    content, digest = find_image({"x": {"bytes": b"png", "path": None}}, "x", "t, row 1")
    assert (content, digest) == (b"png", hashlib.sha256(b"png").hexdigest())
    assert find_image({"x": b"png"}, "x", "t, row 1") == (content, digest)
    path = tmp_path / "1.png"
    path.write_bytes(b"png")
    assert find_image({"x": {"bytes": None, "path": str(path)}}, "x", "") == (path, digest)
    with pytest.raises(UserError, match=r"none\.png: no such file"):
        find_image({"x": {"bytes": None, "path": "none.png"}}, "x", "")
    with pytest.raises(UserError, match=r"t, row 1: 'x' is .*, not an image's content"):
        find_image({"x": "cat.png"}, "x", "t, row 1")
