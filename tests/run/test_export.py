"""An export computes what the adapter does, without this package."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.adapters.test_contract import attached
from tests.run.conftest import tiny_run
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.resolved import read_config, write_config
from toplora_train.config.schema import ModelSettings
from toplora_train.contract.subject import shaken
from toplora_train.data.prompts import build_prompt
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.run import export as module
from toplora_train.run.export import PROBE, empty_folder, export, validate_convertible

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

PLAIN = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, lora, merged, ids, result = sys.argv[1:]
ids = torch.tensor([eval(ids)])
plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora)
models = {"lora": plain, "merged": AutoModelForCausalLM.from_pretrained(merged)}
torch.save({kind: m.eval()(input_ids=ids).logits.detach() for kind, m in models.items()}, result)
"""


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def trained_run(tmp_path: Path, base_folder: Path):
    """A run directory with a trained adapter of the given kind."""

    def make(name: str, **settings) -> tuple[Path, torch.Tensor]:
        run_dir = tmp_path / "run"
        model = attached(name, **settings)
        model.base_model.model.name_or_path = str(base_folder)
        model.peft_config["default"].base_model_name_or_path = str(base_folder)
        shaken(model)
        save_adapter(model, run_dir / "adapter")
        base = ModelSettings(name="folder", path=str(base_folder))
        write_config(tiny_run(run_dir, model=base), run_dir / "config.yaml")
        with torch.no_grad():
            return run_dir, model(input_ids=torch.tensor([probe_ids()])).logits

    return make


def probe_ids() -> list[int]:
    return tiny_tokenizer()(build_prompt(PROBE)).input_ids


LORA = [
    ("lora", {"rank_pattern": {"k_proj": 3}}),
    ("dora", {}),
    ("toplora", {"gate": {"enabled": False}}),
    ("tenslora", {"construction": "att_qkv_depth"}),
    ("genlora", {"r": 4, "modules_to_save": ["lm_head"]}),
]


@pytest.mark.parametrize(("name", "settings"), LORA, ids=[name for name, _ in LORA])
@pytest.mark.parametrize("format", ["lora", "merged"])
def test_the_export_has_the_same_logits(name: str, settings: dict, format: str, trained_run):
    run_dir, logits = trained_run(name, **settings)
    done = export(run_dir, format=format)
    assert done.folder == run_dir / format
    assert done.max_abs_logit_difference <= 1e-5 * done.largest_logit
    assert done.largest_logit == pytest.approx(float(logits.abs().max()), rel=1e-5)
    assert (done.folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("stranger", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_peft_and_transformers_alone_compute_the_same(
    trained_run, base_folder: Path, tmp_path: Path, stranger: bool, monkeypatch
):
    """With ``stranger`` in a process that has not imported this package."""
    run_dir, expected = trained_run("tenslora")
    folders = [str(export(run_dir, format=kind).folder) for kind in ("lora", "merged")]
    result = tmp_path / "logits"
    words = ["-c", str(base_folder), *folders, str(probe_ids()), str(result)]
    if stranger:
        check = "assert not any(name.startswith('toplora_train') for name in sys.modules)"
        program = f"{PLAIN}\n{check}"
        subprocess.run([sys.executable, "-c", program, *words[1:]], check=True, cwd=tmp_path)
    else:
        config = json.loads((Path(folders[0]) / "adapter_config.json").read_text())
        assert (config["peft_type"], config["auto_mapping"]) == ("LORA", None)
        monkeypatch.setattr(sys, "argv", words)
        exec(PLAIN, {})
    for found in torch.load(result).values():
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("format", ["lora", "merged"])
def test_toplora_is_refused_with_the_reason_and_the_alternatives(format: str, trained_run):
    run_dir, _ = trained_run("toplora")
    with pytest.raises(UserError) as refusal:
        export(run_dir, format=format)
    line = str(refusal.value)
    assert line.startswith(f"format={format}: TopLoRA cannot be merged: its gate depends on each")
    assert "import toplora_train" in line and "adapter.gate.enabled=false" in line
    assert not (run_dir / format).exists()


def test_a_peft_method_without_a_lora_form_is_refused_as_lora_but_merges(trained_run):
    run_dir, _ = trained_run("peft", peft_type="LOHA", settings={"target_modules": ["q_proj"]})
    with pytest.raises(UserError, match="format=lora: a LOHA adapter has no exact plain LoRA"):
        export(run_dir, format="lora")
    done = export(run_dir, format="merged")
    assert done.max_abs_logit_difference <= 1e-5 * done.largest_logit


def test_another_base_model_is_refused_by_name(trained_run, base_folder: Path):
    run_dir, _ = trained_run("lora")
    file = run_dir / "adapter" / "adapter_config.json"
    other = json.loads(file.read_text()) | {"base_model_name_or_path": "some/other"}
    file.write_text(json.dumps(other))
    with pytest.raises(UserError, match=f"trained on some/other, but .* names {base_folder} as"):
        export(run_dir, format="merged")


def test_an_adapter_of_a_newer_version_is_refused(trained_run):
    run_dir, _ = trained_run("genlora")
    file = run_dir / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 2}))
    with pytest.raises(UserError, match=r"adapter_config\.json: saved by a newer toplora-train"):
        export(run_dir, format="lora")


def test_an_adapter_that_lacks_a_tensor_is_refused_by_the_tensors_name(trained_run):
    run_dir, _ = trained_run("tenslora")
    file = run_dir / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.tenslora_core"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"missing: base_model\.tenslora_core"):
        export(run_dir, format="lora")


def test_a_folder_that_is_not_empty_is_refused(trained_run, tmp_path: Path):
    run_dir, _ = trained_run("lora")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("mine")
    with pytest.raises(UserError, match="mine already exists"):
        export(run_dir, format="lora", output=tmp_path / "mine")
    assert read_config(run_dir / "config.yaml")


def test_a_folder_that_cannot_be_created_is_refused_before_the_model_is_loaded(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^output=.*cannot be created"):
        empty_folder(tmp_path / "file" / "x")


def test_a_run_that_is_being_extended_is_refused(trained_run):
    run_dir, _ = trained_run("lora")
    (run_dir / "report.json").write_text('{"schema_version": 1, "status": "interrupted"}')
    with pytest.raises(UserError, match="its status is interrupted, not completed; finish it"):
        export(run_dir, format="merged")


def test_an_unfinished_run_is_refused(trained_run):
    run_dir, _ = trained_run("lora")
    (run_dir / "adapter").rename(run_dir / "aside")
    with pytest.raises(UserError, match="has no adapter: the run is not finished"):
        export(run_dir, format="lora")


def test_an_activated_lora_is_refused_in_both_formats(trained_run):
    run_dir, _ = trained_run("alora", invocation_tokens=[5])
    for format in ("lora", "merged"):
        with pytest.raises(UserError, match="only the tokens from its invocation on"):
            export(run_dir, format=format)
        assert not (run_dir / format).exists()


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_layer_that_shares_its_weight_with_the_embedding_is_not_merged(tied: bool):
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    settings = {"name": "lora", "target_modules": ["q_proj", "lm_head"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, which names a setting that it alone has
        model = attach_adapter(LlamaForCausalLM(config), settings, seed=1)
    if not tied:
        validate_convertible(model, "merged")
        return
    with pytest.raises(UserError, match="share their weight in this model"):
        validate_convertible(model, "merged")
    validate_convertible(model, "lora")


def test_an_export_that_computes_something_else_is_not_written(trained_run, monkeypatch):
    run_dir, _ = trained_run("lora")

    def write_wrongly(adapted, adapter: Path, folder: Path) -> None:
        write_as_it_is(adapted, adapter, folder)
        file = folder / "adapter_model.safetensors"
        save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)

    write_as_it_is = module._write_lora
    monkeypatch.setattr(module, "_write_lora", write_wrongly)
    with pytest.raises(RunFailure, match=r"the export computes something else .* not written"):
        export(run_dir, format="lora")
    assert not (run_dir / "lora").exists()
