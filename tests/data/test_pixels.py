"""Images are decoded and resized as the model's image processor does it, once."""

import gc
import io
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from toplora_train.config.errors import Interrupted, UserError
from toplora_train.data.labelled import collate_labelled, encode_labelled, render_labelled
from toplora_train.data.pixels import ImageReader, load_image_reader
from toplora_train.data.rows import Row
from toplora_train.launch.command import signals_restored
from toplora_train.train.signals import interrupt_at_once

SIZE = {"height": 8, "width": 12}
PROCESSOR = ViTImageProcessorPil(size=SIZE, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])


def reader(processor=PROCESSOR, channels=3) -> ImageReader:
    return ImageReader(processor, channels=channels, patch=4)


def picture(mode="RGB", size=(20, 30), seed=0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def row(image: Image.Image, name: str = "a", answer: str = "cat", **options) -> Row:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return Row(name, f"image {name}", "", "", answer, image=stream.getvalue())


def encode(tokenizer, rows, choices=("cat", "dog")):
    return encode_labelled(tokenizer, rows, choices=choices, max_length=8, overflow="error")


def test_a_batch_is_exactly_what_the_models_image_processor_makes():
    images = [picture(seed=1), picture(size=(8, 9), seed=2)]
    rows = [row(image, str(number), "dog") for number, image in enumerate(images)]
    encoded = encode(reader(), rows)
    batch = collate_labelled(encoded.examples, None)
    expected = PROCESSOR(images, return_tensors="pt").pixel_values.float()
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["labels"].tolist() == [1, 1]
    assert encoded.examples[0].pixels.dtype == np.uint8
    assert encoded.tokens == 14 and encoded.supervised_tokens == 2


def test_an_image_is_decoded_once_and_not_held_in_memory():
    images, rows = reader(), [row(picture(seed=1), "a"), row(picture(seed=2), "b")]
    first = encode(images, rows).examples
    again = encode(images, [replace(one, image=b"not read again") for one in rows]).examples
    assert np.array_equal(first[1].pixels, again[1].pixels)
    assert not np.array_equal(first[0].pixels, first[1].pixels)
    held = gc.get_referents(vars(images), *map(vars, (*first, *again)))
    assert not any(isinstance(value, np.ndarray) for value in held)


@pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("RGBA", 3), ("P", 3), ("RGB", 1)])
def test_every_color_mode_has_the_models_channels(mode, channels):
    processor = ViTImageProcessorPil(size=SIZE, image_mean=[0.5], image_std=[0.5])
    [example] = encode(reader(processor, channels), [row(picture(mode))]).examples
    assert example.pixels.shape == (channels, 8, 12)


def test_a_photo_is_turned_as_its_camera_was_held():
    image, exif = picture(size=(12, 8)), Image.Exif()
    exif[0x0112] = 3  # upside down
    [turned] = encode(reader(), [row(image, exif=exif)]).examples
    assert np.array_equal(turned.pixels, np.asarray(image.rotate(180)).transpose(2, 0, 1))


def test_an_image_that_cannot_be_decoded_is_named_with_its_file(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    broken = Row("a", "image a", "", "", "cat", place=str(path), image=path)
    with pytest.raises(UserError, match=r"broken\.png: cannot be decoded as an image \(cannot id"):
        encode(reader(), [broken])
    whole = row(picture(size=(90, 90))).image
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"broken\.png: cannot be decoded"):
        encode(reader(), [broken])
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    with pytest.raises(UserError, match=r"row 'deep': .*more than 8 bits per channel"):
        encode(reader(), [row(deep, "deep")])


def test_a_signal_while_an_image_is_decoded_is_not_a_broken_image():
    class Stopped(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().read(size)

    stopped = replace(row(picture()), image=Stopped(row(picture()).image))
    with signals_restored():
        interrupt_at_once()
        with pytest.raises(Interrupted, match="signal 15"):
            encode(reader(), [stopped])


def test_images_of_different_sizes_are_named():
    loose = ViTImageProcessorPil(do_resize=False)
    rows = [row(picture(), "first"), row(picture(size=(5, 6)), "second")]
    with pytest.raises(UserError, match=r"row 'second': is 5 x 6 pixels .* 'first' is 20 x 30"):
        encode(reader(loose), rows)


def test_a_model_of_texts_has_no_image_processor(tmp_path):
    with pytest.raises(UserError, match="tiny: has no image processor"):
        load_image_reader(None, "tiny")
    with pytest.raises(UserError, match="m: has no image processor"):
        load_image_reader(tmp_path, "m")


@pytest.mark.parametrize(("patch", "positions"), [(2, 25), ([2, 3], 17), (None, 1)])
def test_a_reader_counts_patches_and_is_saved_as_the_image_processor(
    tmp_path: Path, patch, positions
):
    PROCESSOR.save_pretrained(tmp_path)
    kind = ResNetConfig if patch is None else partial(ViTConfig, patch_size=patch)
    kind(num_channels=1).save_pretrained(tmp_path)
    found = load_image_reader(tmp_path, "m")
    assert not found.get_vocab()
    found.save_pretrained(tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["preprocessor_config.json"]
    [example] = encode(found, [row(picture("L"))]).examples
    assert example.pixels.shape == (1, 8, 12) and len(example.input_ids) == positions
    assert render_labelled(found, example, choices=("cat",)) == [
        ("(an image of 12 x 8 pixels) ", False),
        ("cat", True),
    ]
