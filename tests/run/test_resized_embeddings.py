"""``model.resize_embeddings=true``: a tokenizer with more tokens than the embedding has rows."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tests.run.conftest import tiny_run
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.config.schema import DatasetSettings, ModelSettings, RunConfig, TaskSettings
from toplora_train.models.tiny import tiny_config, tiny_tokenizer
from toplora_train.run import finetune
from toplora_train.run.evaluate import evaluate
from toplora_train.run.export import export
from toplora_train.run.plan import make_plan
from toplora_train.run.prepare.plan_target import find_target

ROWS, HIDDEN = tiny_config().vocab_size, tiny_config().hidden_size
TABLES = ("model.embed_tokens", "lm_head")
WORDS = ["many", "have", "does"]  # of the first rows


@pytest.fixture
def few_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toplora_train.run.assemble.adapter_costs.ADAPTERS", ("lora",))


@pytest.fixture
def no_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def longer_vocabulary(folder: Path, *, tied: bool) -> Path:
    """A saved model whose tokenizer has more tokens than its embedding has rows."""
    config = tiny_config()
    config.tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(WORDS)
    tokenizer.save_pretrained(folder)
    return folder


def resized_run(base: Path, run_dir: Path, adapter: str = "toplora", **changes) -> RunConfig:
    model = ModelSettings(name="longer", path=str(base), resize_embeddings=True)
    config = tiny_run(run_dir, adapter, model=model, **changes)
    run_dir.mkdir(exist_ok=True)
    write_config(config, run_dir / "config.yaml")
    return config


def plain(base: Path, adapter: Path) -> PeftModel:
    """As the model card says: without this package's loading."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(ROWS + 3, mean_resizing=False)
    return PeftModel.from_pretrained(model, str(adapter))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("tied", "adapter"),
    [
        (True, "tenslora"),
        pytest.param(False, "lora", marks=pytest.mark.slow),
        pytest.param(False, "toplora", marks=pytest.mark.slow),
    ],
)
def test_a_run_trains_the_new_rows_and_its_adapter_reloads(
    tmp_path: Path, tied: bool, adapter: str
):
    base, run_dir = longer_vocabulary(tmp_path / "base", tied=tied), tmp_path / "run"
    finetune.run(resized_run(base, run_dir, adapter), run_dir)

    report = json.loads((run_dir / "report.json").read_text())
    assert report["reload"] == {
        "max_abs_logit_difference": 0.0,
        "missing": [],
        "unexpected": [],
        "same": True,
    }
    tensors = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    tables = [tensors[f"base_model.model.{name}.weight"] for name in TABLES]
    assert all(len(table) == ROWS + 3 for table in tables)
    assert torch.equal(*tables) == tied
    assert len(tables[0][ROWS:].unique(dim=0)) == 3  # they began as one and the same row
    held = sum(tensor.numel() for tensor in tensors.values())
    shared = (ROWS + 3) * HIDDEN if tied else 0
    assert report["adapter"]["trainable_parameters"] == held - shared
    assert report["model"]["embedding_rows"] == ROWS + 3
    card = (run_dir / "adapter" / "README.md").read_text()
    assert f"base.resize_token_embeddings({ROWS + 3}" in card

    tokenizer = AutoTokenizer.from_pretrained(run_dir / "adapter")
    ids = tokenizer("How many does he have?", return_tensors="pt").input_ids
    assert int(ids.max()) >= ROWS
    with torch.no_grad():
        logits = plain(base, run_dir / "adapter").eval()(input_ids=ids).logits
    if adapter != "toplora":  # which never merges
        written = export(run_dir, format="merged")
        assert written.max_abs_logit_difference < 1e-4
        merged = AutoModelForCausalLM.from_pretrained(written.folder)
        assert merged.config.vocab_size == ROWS + 3
        with torch.no_grad():
            assert torch.allclose(merged(input_ids=ids).logits, logits, atol=1e-4)
        written = export(run_dir, format="lora")
        assert written.max_abs_logit_difference < 1e-4

    config = resized_run(base, run_dir, adapter)
    _, again = evaluate(config, run_dir, name="again", command="toplora-eval in a test")
    scores = again["tasks"]["arithmetic"]
    assert scores["value"] == report["tasks"]["arithmetic"]["value"]


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path: Path, tied: bool):
    base = longer_vocabulary(tmp_path / "base", tied=tied)
    whole, half = tmp_path / "whole", tmp_path / "half"
    config = resized_run(base, whole)
    trainer = replace(config.trainer, save_every=2, keep=9)
    finetune.run(replace(config, trainer=trainer), whole)
    shutil.copytree(whole / "checkpoints" / "step-00000002", half / "checkpoints" / "step-00000002")
    shutil.copy(whole / "metrics.jsonl", half / "metrics.jsonl")
    finetune.run(replace(config, trainer=trainer, resume="auto", output_dir=str(half)), half)
    weights = "adapter/adapter_model.safetensors"
    assert (half / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_run_starts_from_the_embedding_of_another(tmp_path: Path):
    base, first = longer_vocabulary(tmp_path / "base", tied=True), tmp_path / "first"
    finetune.run(resized_run(base, first), first)
    config = resized_run(base, tmp_path / "second")
    config = replace(config, adapter=config.adapter | {"start_from": str(first)})
    finetune.run(config, tmp_path / "second")
    before, after = (
        json.loads((folder / "report.json").read_text())["train"]
        for folder in (first, tmp_path / "second")
    )
    assert after["loss_first"] < before["loss_first"]


def test_a_method_that_trains_no_module_whole_is_refused_by_name(tmp_path: Path):
    base = longer_vocabulary(tmp_path / "base", tied=False)
    settings, _ = adapter_defaults("peft")
    config = resized_run(base, tmp_path / "run", "peft")
    tokens = {"target_modules": ["embed_tokens"], "token_indices": [1]}
    config = replace(
        config, adapter=settings | {"peft_type": "TRAINABLE_TOKENS", "settings": tokens}
    )
    with pytest.raises(UserError, match=r"adapter=peft: .*model\.resize_embeddings"):
        finetune.run(config, tmp_path / "run")


@pytest.mark.usefixtures("few_to_compare")
def test_the_plan_counts_the_embedding_that_will_be_trained(tmp_path: Path):
    base = longer_vocabulary(tmp_path / "base", tied=False)
    config = resized_run(base, tmp_path / "run")
    table = (ROWS + 3) * HIDDEN
    made = make_plan(config, find_target(config))
    assert made.parameters is not None
    counted = made.parameters.trainable
    assert (counted["embed_tokens"], counted["lm_head"]) == (table, table)
    assert made.unknown == []


@pytest.mark.usefixtures("few_to_compare", "no_hub_cache")
def test_without_the_tokenizer_the_plan_says_what_it_leaves_out(tmp_path: Path):
    path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    shipped = ModelSettings(name="s", path=path, resize_embeddings=True)
    config = tiny_run(tmp_path / "run", "lora", model=shipped)
    few = {"layers_to_transform": [0], "target_modules": ["q_proj"]}
    config = replace(config, adapter=config.adapter | few)
    made = make_plan(config, find_target(config))
    assert made.parameters is not None
    assert "embed_tokens" not in made.parameters.trainable
    assert any("model.resize_embeddings" in line for line in made.unknown)


def test_a_head_is_trained_beside_the_resized_embedding(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    lines = ({"text": f"{'many' * (n % 2)} of {n}", "label": n % 2} for n in range(24))
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = TaskSettings(name="t", source=str(rows), kind="classify", choices=["few", "many"])
    base, run_dir = longer_vocabulary(tmp_path / "base", tied=True), tmp_path / "run"
    data = DatasetSettings(name="rows", train=str(rows), max_length=64)
    finetune.run(resized_run(base, run_dir, "lora", dataset=data, task={"t": task}), run_dir)
    report = json.loads((run_dir / "report.json").read_text())
    assert report["reload"]["max_abs_logit_difference"] == 0
    tensors = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    whole = {name for name in tensors if "lora" not in name}
    assert whole == {f"base_model.model.{name}.weight" for name in ("model.embed_tokens", "score")}


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="needs bitsandbytes")
def test_the_embedding_of_a_quantised_base_is_resized_too(tmp_path: Path):
    base, run_dir = longer_vocabulary(tmp_path / "base", tied=True), tmp_path / "run"
    config = resized_run(base, run_dir, "lora")
    config = replace(config, model=replace(config.model, quantization="4bit"))
    finetune.run(config, run_dir)
    report = json.loads((run_dir / "report.json").read_text())
    assert report["reload"]["max_abs_logit_difference"] == 0
    tensors = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    assert torch.equal(*(tensors[f"base_model.model.{name}.weight"] for name in TABLES))
