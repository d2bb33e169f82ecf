"""A base model's folder is what it says, or one line names the file that is not."""

import json
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.models.folder import holds_weights, shards, validate_model_folder
from toplora_train.models.tiny import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_is_valid(folder: Path):
    validate_model_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "nosuch"}, "has the unknown model_type 'nosuch'"),
        ({"model_type": ["llama"]}, "has the unknown model_type"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, not a size from 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not a size"),
        ({"vocab_size": 8, "pad_token_id": 8}, "pad_token_id is 8, beyond the 8 tokens"),
        ({"hidden_size": "64"}, "not a config of llama"),
        ({"dtype": "float99"}, "dtype is 'float99', which is not a dtype"),
        ({"dtype": ["float32"]}, "dtype is .*, which is not a dtype"),
        ({"architectures": 7}, "architectures: must be a list"),
        ({"torch_dtype": "nn"}, "torch_dtype is 'nn', which is not a dtype"),
    ],
)
def test_an_impossible_config_names_the_key(folder: Path, change: dict, message: str):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=rf"config\.json: {message}") as caught:
        validate_model_folder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff\xfe\x00", b"[" * 100_000, b""])
def test_a_config_that_is_none_is_one_line(folder: Path, content: bytes):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        validate_model_folder(folder)


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe\x00", b"[" * 100_000, b""])
def test_a_generation_config_that_is_none_is_not_passed_over(folder: Path, content: bytes):
    (folder / "generation_config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"generation_config\.json"):
        validate_model_folder(folder)


@pytest.mark.parametrize("left", [0, 5, 200, -1])
def test_weights_that_were_cut_off_are_named(folder: Path, left: int):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UserError, match=r"model\.safetensors: not a valid safetensors file"):
        validate_model_folder(folder)
    validate_model_folder(folder, weights=False)


def test_a_pickle_is_refused_in_one_line(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: pickled weights can run code") as one:
        validate_model_folder(folder)
    assert "\n" not in str(one.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "no weight_map"),
        ({"weight_map": []}, "no weight_map"),
        ({"weight_map": {"a": "../../secret"}}, "is not a file in this folder"),
        ({"weight_map": {"a": 3}}, "is not a file in this folder"),
        ({"weight_map": {"a": "none.safetensors"}}, r"none\.safetensors: no such file"),
    ],
)
def test_an_index_names_only_files_of_its_folder(folder: Path, index: dict, message: str):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        validate_model_folder(folder)


def test_the_shards_are_those_of_the_index(folder: Path):
    index = {"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in shards(folder)] == ["1.safetensors", "2.safetensors"]


def test_a_model_with_code_of_its_own_is_left_to_that_code(folder: Path):
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "x.Y"}}))
    validate_model_folder(folder)


def test_an_incomplete_download_holds_no_weights(tmp_path: Path):
    assert not holds_weights(tmp_path)
    (tmp_path / "model-1.safetensors").touch()
    assert not holds_weights(tmp_path)  # the index is downloaded after the first shards
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not holds_weights(tmp_path)
    (tmp_path / "model-2.safetensors").touch()
    assert holds_weights(tmp_path)
