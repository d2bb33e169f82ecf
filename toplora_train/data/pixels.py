"""Images as a model's input: decoded and resized once, normalized in every batch.

A decoded image is kept on disk as bytes, ``(channels, height, width)``: 150 kB at 224 x 224. The
model's own image processor resizes it, and normalizes it when a batch is collated.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, PreTrainedTokenizerFast

from toplora_train.config.errors import UserError, one_line
from toplora_train.data.encode import OnRows, chunks
from toplora_train.data.on_disk import OnDisk
from toplora_train.data.overflow import Encoded
from toplora_train.data.rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ImageReader(PreTrainedTokenizerFast):  # type: ignore[misc]  # is Any to mypy
    """What a tokenizer is to a language model: reads images, and knows no token.

    Saving it saves the image processor.

    Args:
        processor: The model's image processor, on its PIL backend.
        channels: The color channels that the model takes, 1 or 3.
        patch: The side of a patch, or its height and width; None for a model without patches.
    """

    def __init__(self, processor: Any, *, channels: int, patch: Any = None) -> None:
        super().__init__(tokenizer_object=Tokenizer(models.WordLevel({}, unk_token="")))
        self.processor = processor
        self._patch = patch
        self._color = "L" if channels == 1 else "RGB"
        self._decoded: OnDisk[NDArray[Any]] = OnDisk()
        self._places: dict[str, int] = {}  # in it, by SHA-256

    def pixels(self, row: Row) -> NDArray[Any]:
        """A row's image as bytes ``(channels, height, width)``, in the size that the model takes.

        Raises:
            UserError: It cannot be decoded, or has more than 8 bits per channel.
        """
        if row.instruction in self._places:
            return self.read(row.instruction)
        decoded: NDArray[Any] = self.processor(
            self._decode(row), do_rescale=False, do_normalize=False, return_tensors="np"
        ).pixel_values[0]
        self._decoded.append(decoded)
        self._places[row.instruction] = len(self._decoded) - 1
        return decoded

    def read(self, image: str) -> NDArray[Any]:
        """What :meth:`pixels` returned for the row with an image of this SHA-256."""
        return self._decoded[self._places[image]]

    def positions(self, pixels: NDArray[Any]) -> tuple[int, ...]:
        """A zero for each position that the model computes: the patches and the class token."""
        if self._patch is None:
            return (0,)
        return (0,) * (1 + int(np.prod(pixels.shape[-2:] // np.broadcast_to(self._patch, 2))))

    def normalized(self, pixels: Sequence[NDArray[Any]]) -> Tensor:
        """The model's ``pixel_values``, ``(images, channels, height, width)``, float32."""
        done = {"do_resize": False, "do_center_crop": False, "do_pad": False}
        values: Tensor = self.processor(
            list(pixels), input_data_format="channels_first", return_tensors="pt", **done
        ).pixel_values
        return values.float()

    def save_pretrained(self, save_directory: Any, *_: Any, **__: Any) -> tuple[str, ...]:
        """Write ``preprocessor_config.json``."""
        return tuple(self.processor.save_pretrained(save_directory))

    def _decode(self, row: Row) -> Any:
        from PIL import Image, ImageOps

        assert row.image is not None  # of a task of images
        source = io.BytesIO(row.image) if isinstance(row.image, bytes) else row.image
        try:
            with Image.open(source) as image:
                if image.mode in ("I", "F") or image.mode.startswith("I;"):
                    raise ValueError("more than 8 bits per channel; convert it")
                return ImageOps.exif_transpose(image).convert(self._color)
        except Exception as error:  # a decoder may raise anything
            raise UserError(
                f"{row.where}: cannot be decoded as an image ({one_line(error)}); replace or "
                "remove it"
            ) from error


def load_image_reader(folder: Path | None, name: str, *, trusted: bool = False) -> ImageReader:
    """The reader for a model's images.

    Args:
        folder: The model's, with ``preprocessor_config.json``.
        name: The model's, for messages.
        trusted: Whether Python code in the folder may run.

    Raises:
        UserError: The model takes no images.
    """
    try:
        if folder is None:
            raise ValueError("it is built in, for texts")
        processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=trusted
        )
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{name}: has no image processor, which dataset.image needs ({one_line(error)}); "
            "choose a model of images: model=vit_base, or model.path=FOLDER"
        ) from error
    patch = getattr(config, "patch_size", None)
    return ImageReader(processor, channels=getattr(config, "num_channels", 3), patch=patch)


@dataclass(frozen=True)
class ImageExample:
    """An image's pixels with its class number or regression target.

    ``input_ids`` has an entry for each position that the model computes; their values mean nothing.
    """

    input_ids: tuple[int, ...]
    image: str  # its SHA-256
    target: int | float
    reader: ImageReader

    @property
    def pixels(self) -> NDArray[Any]:
        """The image as the reader keeps it."""
        return self.reader.read(self.image)

    @property
    def supervised(self) -> int:
        """The number of terms it adds to the loss."""
        return 1


def encode_images(
    reader: ImageReader,
    rows: Sequence[Row],
    *,
    choices: Sequence[str],
    on_rows: OnRows | None = None,
) -> Encoded[ImageExample]:
    """Decode the image of each row.

    Args:
        reader: The base model's.
        rows: The rows; ``answer`` is one of the choices, or a number if there are no choices.
        choices: The class names, by class number.
        on_rows: Progress callback.

    Raises:
        UserError: An image cannot be decoded, or the images have different sizes.
    """
    numbers = {name: number for number, name in enumerate(choices)}
    examples: list[ImageExample] = []
    shape: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    for row in chain.from_iterable(chunks(rows, on_rows)):
        pixels = reader.pixels(row)
        if not examples:
            shape, positions = pixels.shape, reader.positions(pixels)
        if pixels.shape != shape:
            raise UserError(
                f"{row.where}: is {_size(pixels.shape)} pixels after the model's image processor, "
                f"but {rows[0].where} is {_size(shape)}; set a fixed height and width in the "
                "model's preprocessor_config.json"
            )
        target = numbers[row.answer] if choices else float(row.answer)
        examples.append(ImageExample(positions, row.instruction, target, reader))
    return Encoded(tuple(examples), tuple(range(len(rows))))


def collate_images(examples: Sequence[ImageExample]) -> dict[str, Tensor]:
    """``pixel_values`` ``(rows, channels, height, width)`` and ``labels`` ``(rows,)``."""
    reader = examples[0].reader
    return {
        "pixel_values": reader.normalized([example.pixels for example in examples]),
        "labels": torch.tensor([example.target for example in examples]),
    }


def render_image(example: ImageExample, *, choices: Sequence[str]) -> list[tuple[str, bool]]:
    """The image's size, then its label, the only supervised item."""
    label = choices[int(example.target)] if choices else f"{example.target:g}"
    return [(f"(an image of {_size(example.pixels.shape)} pixels) ", False), (label, True)]


def _size(shape: tuple[int, ...]) -> str:
    height, width = shape[-2:]
    return f"{width} x {height}"
