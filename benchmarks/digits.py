"""Write scikit-learn's digits as folders of images, and a tiny ViT trained whole on half of them.

    python benchmarks/digits.py digits

writes `digits/model`, a ViT of three layers trained on the digits 0 to 4 with transformers alone,
and `digits/train` and `digits/test`, the digits 5 to 9, which it has never seen: a folder per class
of 8 x 8 PNG files. `toplora-train recipe=digits_tiny_vit` adapts the one to the others.
"""

import argparse
import os
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # too small for a GPU; the same weights everywhere

import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

KNOWN = range(5)
EPOCHS, ROWS, RATE = 30, 32, 1e-3


def write_images(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(int(label)) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(path)


def normalized(images: torch.Tensor) -> torch.Tensor:
    return (images[:, None].float() / 255 - 0.5) / 0.5


@torch.no_grad()
def features(model: ViTForImageClassification, images: torch.Tensor) -> torch.Tensor:
    return model.vit(normalized(images)).last_hidden_state[:, 0]


def train_whole(images: torch.Tensor, labels: torch.Tensor) -> ViTForImageClassification:
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            id2label={number: str(number) for number in KNOWN},
            label2id={str(number): number for number in KNOWN},
        )
    )
    pixels = normalized(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(ROWS):
            loss = model(pixels[rows], labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = (model.eval()(pixels).logits.argmax(-1) == labels).float().mean()
    print(f"trained whole on {len(labels)} images of the digits 0 to 4: {right:.1%} right")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    digits = load_digits()
    images = torch.from_numpy(digits.images * 15).to(torch.uint8)  # of 0 to 16
    labels = torch.from_numpy(digits.target)
    known, new = labels < len(KNOWN), labels >= len(KNOWN)
    model = train_whole(images[known], labels[known])
    model.save_pretrained(folder / "model")
    ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]
    ).save_pretrained(folder / "model")
    parts = train_test_split(
        images[new], labels[new], test_size=1 / 3, random_state=0, stratify=labels[new]
    )
    write_images(folder / "train", parts[0], parts[2])
    write_images(folder / "test", parts[1], parts[3])
    for C in (1e-2, 1.0, 1e2, 1e4):
        head = LogisticRegression(C=C, max_iter=20_000, tol=1e-8)
        head.fit(features(model, parts[0]), parts[2])
        score = head.score(features(model, parts[1]), parts[3])
        print(f"logistic regression on the frozen features, C={C:g}: {score:.1%}")
    print(f"{len(parts[0])} training and {len(parts[1])} test images of the digits 5 to 9")


if __name__ == "__main__":
    main()
