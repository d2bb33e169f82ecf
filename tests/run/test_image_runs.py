"""Whole runs on images: trained, scored, saved, reloaded, resumed and evaluated like any other."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.run.conftest import tiny_run
from toplora_train.adapters.attach import adapter_names, attach_adapter
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.config.schema import DatasetSettings, ModelSettings, RunConfig
from toplora_train.run import finetune
from toplora_train.run.evaluate import evaluate
from toplora_train.run.plan import make_plan
from toplora_train.run.prepare.own_table import with_table
from toplora_train.run.prepare.plan_target import Target
from toplora_train.run.prepare.run_data import prepare


def tiny_vit(**changes) -> ViTForImageClassification:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"image_size": 4, "patch_size": 2, "num_channels": 1, "hidden_size": 16}
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        return ViTForImageClassification(ViTConfig(**sizes | layers | changes)).eval()


@pytest.fixture(scope="module")
def stripes(tmp_path_factory) -> Path:
    """A model of 4 x 4 images, and horizontal and vertical stripes with noise."""
    folder = tmp_path_factory.mktemp("stripes")
    tiny_vit(architectures=["ViTModel"]).save_pretrained(folder / "model")
    ViTImageProcessorPil(
        size={"height": 4, "width": 4}, image_mean=[0.5], image_std=[0.5]
    ).save_pretrained(folder / "model")
    random = np.random.default_rng(0)
    for number in range(40):
        image = np.tile([[60], [200]], (2, 4)) + random.integers(-50, 50, (4, 4))
        kind = ["lying", "standing"][number % 2]
        path = folder / "images" / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.T if number % 2 else image).astype(np.uint8)).save(path)
    return folder


def run_of(stripes: Path, output: Path, adapter: str = "toplora", **dataset) -> RunConfig:
    config = tiny_run(output, adapter)
    config = replace(
        config,
        model=ModelSettings(name="vit", path=str(stripes / "model"), new_head=True),
        dataset=DatasetSettings(
            name="images",
            **{"train": str(stripes / "images"), "image": "image", "label": "label"} | dataset,
        ),
        task={},
        optimizer=replace(config.optimizer, lr=1e-2),
        trainer=replace(config.trainer, max_steps=None, epochs=4, save_every=4),
        evaluation=replace(config.evaluation, limit=None),
    )
    return with_table(config)[0]


def test_a_run_on_images_is_scored_reloaded_resumed_and_evaluated(stripes, tmp_path):
    config = run_of(stripes, tmp_path, validation_share=0.1)
    write_config(config, tmp_path / "config.yaml")
    finetune.run(config, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    score = report["tasks"]["test"]
    assert (score["n"], score["base_value"], score["majority_value"]) == (8, None, 0.5)
    assert score["value"] > 0.5
    assert (
        report["data"]["tokens"] == report["data"]["rows"] * 5 == 29 * 5
    )  # patches and class token
    assert report["reload"]["max_abs_logit_difference"] == 0
    page = (tmp_path / "report.md").read_text()
    assert "Confusion matrix: test" in page and "decode, resize and normalize" in page
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    program = card.partition("```python\n")[2].partition("```")[0]
    Image.open(stripes / "images" / "lying" / "0.png").save(tmp_path / "image.png")
    for name, value in {
        "FOLDER_OF_THE_BASE_MODEL": stripes / "model",
        "FOLDER_OF_THIS_FILE": tmp_path / "adapter",
        "image.png": tmp_path / "image.png",
        'convert("RGB")': 'convert("L")',
    }.items():
        assert name in program
        program = program.replace(name, str(value))
    exec(program, {"print": lambda logits: logits.shape == (1, 2) or pytest.fail(str(logits))})

    lines = (tmp_path / "predictions" / "test.jsonl").read_text()
    folder, _ = evaluate(config, tmp_path, name="again", command="c")
    assert (folder / "predictions" / "test.jsonl").read_text() == lines

    weights = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    for path in sorted(newest.rglob("*"), reverse=True):
        path.unlink()
    newest.rmdir()
    (tmp_path / "report.json").unlink()
    finetune.run(replace(config, resume="auto"), tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == weights


# An invocation is text, and a fusion's answers are; PEFT's other methods have their own tests.
OF_TEXTS = {"alora", "fusion", "peft"}
SMALLER = {
    "tenslora": {"construction": "att_qkv_depth", "r": 2},
    "orthogonal": {"protect": 2},
}


@pytest.mark.parametrize("name", [name for name in adapter_names() if name not in OF_TEXTS])
def test_every_adapter_learns_on_a_vit_and_is_reloaded(name, tmp_path):
    settings, _ = adapter_defaults(name)
    settings |= SMALLER.get(name, {})
    batch = {"pixel_values": torch.randn(3, 1, 4, 4, generator=torch.manual_seed(0))}
    before = tiny_vit()(**batch).logits
    model = attach_adapter(tiny_vit(), settings, seed=1)
    if name != "unilora":  # whose update does not start at zero
        torch.testing.assert_close(model(**batch).logits, before)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**batch, labels=torch.tensor([0, 1, 0])).loss.backward()
    optimizer.step()
    moved = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert any("classifier.modules_to_save" in one for one in moved)
    changed = model.eval()(**batch).logits
    assert not torch.allclose(changed, before)
    save_adapter(model, tmp_path)
    assert torch.equal(load_adapter(tiny_vit(), tmp_path)(**batch).logits, changed)


def test_both_heads_of_a_distilled_deit_are_trained():
    sizes = {"image_size": 4, "patch_size": 2, "hidden_size": 16, "intermediate_size": 16}
    config = DeiTConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    model = DeiTForImageClassificationWithTeacher(config)
    settings, _ = adapter_defaults("lora")
    trained = attach_adapter(model, settings, seed=1).named_parameters()
    heads = {name.split(".")[2] for name, one in trained if one.requires_grad} - {"deit"}
    assert heads == {"cls_classifier", "distillation_classifier"}


def test_a_plan_counts_patches_and_names_the_images(stripes, tmp_path):
    target = Target("a device", None, lambda _tokens, _hidden: 1e9, "given")
    plan = make_plan(run_of(stripes, tmp_path), target)
    assert plan.tokens.longest == 5
    assert plan.tokens.examples[0] == [("(an image of 4 x 4 pixels) ", False), ("lying", True)]
    assert plan.work is not None


def test_a_column_of_images_is_a_data_set_too(stripes, tmp_path, capsys):
    files = sorted((stripes / "images").rglob("*.png"))
    kinds = {"img": datasets.Image(), "kind": datasets.ClassLabel(names=["standing", "lying"])}
    columns = {"img": list(map(str, files)), "kind": [path.parent.name for path in files]}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    rows.to_parquet(tmp_path / "rows.parquet")
    capsys.readouterr()  # its progress bar
    parquet = {"train": str(tmp_path / "rows.parquet"), "image": "img", "label": "kind"}
    found = prepare(run_of(stripes, tmp_path, **parquet))
    folder = prepare(run_of(stripes, tmp_path, test=str(stripes / "images"), max_overlap=1.0))
    assert found.eval_sets[0].choices == ("standing", "lying")
    assert len(found.train) == 32 and len(found.eval_sets[0].rows.rows) == 8
    by_digest = {row.instruction: row.answer for row in folder.rows.rows}
    assert {row.instruction: row.answer for row in found.rows.rows}.items() <= by_digest.items()
    assert len(folder.contaminated["test"]) == 40


def test_what_does_not_fit_images_is_refused_before_training(stripes, tmp_path):
    config = run_of(stripes, tmp_path)
    broken = stripes / "images" / "lying" / "x.png"
    broken.write_bytes(b"")
    try:
        with pytest.raises(UserError, match=r"x\.png: cannot be decoded as an image"):
            finetune.run(config, tmp_path)
    finally:
        broken.unlink()
    with pytest.raises(UserError, match=r"dataset\.image=COLUMN"):
        run_of(stripes, tmp_path, text="text")
    texts = replace(config, model=ModelSettings(name="tiny", builtin="tiny"))
    with pytest.raises(UserError, match="has no image processor"):
        finetune.run(texts, tmp_path)
    larger = tmp_path / "larger"
    tiny_vit(image_size=8).save_pretrained(larger)
    ViTImageProcessorPil(size={"height": 4, "width": 4}).save_pretrained(larger)
    with pytest.raises(
        UserError, match=r"not take the images of 4 x 4 pixels .*\(Input image size"
    ):
        finetune.run(replace(config, model=ModelSettings("larger", path=str(larger))), tmp_path)
    lora = run_of(stripes, tmp_path / "eva", "lora")
    eva = replace(lora, adapter=lora.adapter | {"init": "eva", "r": 2})
    with pytest.raises(UserError, match=r"adapter\.init 'eva' takes token ids"):
        finetune.run(eva, tmp_path / "eva")
