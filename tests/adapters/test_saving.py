"""A saved adapter loads completely or is refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import adapter_folder, load_adapter, save_adapter
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.contract.subject import shaken
from toplora_train.models.tiny import tiny_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_adapter(attach_adapter(tiny_model(), {"name": "toplora"}, seed=1), tmp_path)
    return tmp_path


def test_a_file_without_its_gate_is_refused_by_name(saved: Path):
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "theta" not in k and "gain" not in k}, file)
    with pytest.raises(UserError, match=r"missing: .*k_proj\.toplora_gain, .* and 9 more$"):
        load_adapter(tiny_model(), saved)


def test_an_adapter_of_a_run_that_is_not_finished_is_refused_unless_it_is_named(saved: Path):
    run = saved / "run"
    run.mkdir()
    save_adapter(attach_adapter(tiny_model(), {"name": "toplora"}, seed=1), run / "adapter")
    assert adapter_folder(run, "key") == run / "adapter"  # of another tool
    (run / "config.yaml").touch()
    for report in (None, {"status": "failed"}):
        if report is not None:
            (run / "report.json").write_text(json.dumps(report))
        with pytest.raises(UserError, match=r"key=.*not finished; finish it with resume=auto, or"):
            adapter_folder(run, "key")
    assert adapter_folder(run / "adapter", "key") == run / "adapter"
    (run / "report.json").write_text(json.dumps({"status": "completed"}))
    assert adapter_folder(run, "key") == run / "adapter"


@pytest.mark.parametrize("name", ["lora", "toplora", "genlora"])
@pytest.mark.parametrize("key", ["alpha_pattern", "rank_pattern"])
def test_the_first_pattern_that_matches_a_module_counts_in_the_file_too(tmp_path, name, key):
    settings = {"name": name, key: {"q_proj": 4, ".*proj": 2}}
    model = shaken(attach_adapter(tiny_model(), settings, seed=1), seed=2)
    save_adapter(model, tmp_path)
    assert list(json.loads((tmp_path / "adapter_config.json").read_text())[key]) == [
        "q_proj",
        ".*proj",
    ]
    ids = torch.arange(12).reshape(2, 6)
    loaded = load_adapter(tiny_model(), tmp_path).eval()
    expected = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, atol=1e-6, rtol=1e-6)


def test_a_lora_file_is_refused_as_toplora(saved: Path, tmp_path_factory: pytest.TempPathFactory):
    other = tmp_path_factory.mktemp("lora")
    save_adapter(attach_adapter(tiny_model(), {"name": "lora"}, seed=1), other)
    weights = "adapter_model.safetensors"
    (saved / weights).write_bytes((other / weights).read_bytes())
    with pytest.raises(UserError, match=r"missing: .*toplora_A.*unexpected: .*lora_A"):
        load_adapter(tiny_model(), saved)


def test_another_rank_in_the_config_is_refused(saved: Path):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    with pytest.raises(UserError, match=r"wrong shape: .*toplora_A \(8, 64\) instead of \(4, 64\)"):
        load_adapter(tiny_model(), saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "NOSUCH"}, "unknown peft_type 'NOSUCH'"),
        ({"heads": 3}, r"Unexpected keyword arguments \['heads'\]"),
        ({"r": 0}, "r must be a positive integer, not 0"),
        ({"target_modules": ["nosuch"]}, "Target modules .*nosuch.* not found"),
        ({"r": 10**9}, "r is 1000000000, but no saved tensor is larger than"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern is 1000000000, but no saved"),
        ({"target_modules": 3}, "target_modules must be a list of module names"),
        ({"alpha": "16"}, "alpha must be a positive number"),
    ],
)
def test_an_invalid_config_is_refused(saved: Path, change: dict, message: str):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message) as refusal:
        load_adapter(tiny_model(), saved)
    assert str(refusal.value).startswith(str(saved))


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_or_truncated_file_is_refused_by_name(saved: Path, file: str):
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{file}: (not|invalid) "):
        load_adapter(tiny_model(), saved)
    (saved / file).unlink()
    with pytest.raises(UserError, match=f"{file}: no such file; give the folder"):
        load_adapter(tiny_model(), saved)


def test_pickled_weights_are_refused(saved: Path):
    tensors = load_file(saved / "adapter_model.safetensors")
    torch.save(tensors, saved / "adapter_model.bin")
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: no such file"):
        load_adapter(tiny_model(), saved)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    model = attach_adapter(tiny_model(), {"name": "lora"}, seed=1)
    with pytest.raises(RunFailure, match="file/adapter: the adapter could not be saved"):
        save_adapter(model, tmp_path / "file" / "adapter")


def test_the_config_file_does_not_depend_on_set_order(tmp_path: Path):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for folder, order in (("a", names), ("b", names[::-1])):
        settings = {"name": "lora", "target_modules": order}
        save_adapter(attach_adapter(tiny_model(), settings, seed=1), tmp_path / folder)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(names)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensor: tensor * float("nan"), "toplora_.* contains NaN or infinity"),
        (lambda tensor: tensor + float("inf"), "toplora_.* contains NaN or infinity"),
        (lambda tensor: tensor.to(torch.int8), "toplora_.* is int8, not floating point"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_values_that_are_not_finite_numbers_are_refused_by_name(
    saved: Path, damage: Callable[[torch.Tensor], torch.Tensor], message: str, device: str
):
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    save_file(tensors | {name: damage(tensors[name])}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load_adapter(tiny_model().to(device), saved)
