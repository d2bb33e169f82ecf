import json
from pathlib import Path

import torch

from toplora_train.models.identity import model_digest
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_model

TINY = ModelLocation("toplora-train/tiny", None, "built in")


def saved(folder: Path, dtype: torch.dtype = torch.float32) -> ModelLocation:
    tiny_model().to(dtype).save_pretrained(folder)
    return ModelLocation("owner/name", folder, "local folder")


def test_the_same_files_have_the_same_digest_in_any_folder(tmp_path: Path):
    one, other = saved(tmp_path / "one"), saved(tmp_path / "other")
    assert model_digest(one) == model_digest(other)
    assert len(model_digest(one)) == 64


def test_a_different_dtype_or_config_has_a_different_digest(tmp_path: Path):
    one, other = saved(tmp_path / "one"), saved(tmp_path / "other", torch.bfloat16)
    assert model_digest(one) != model_digest(other)
    before = model_digest(one)
    config = tmp_path / "one" / "config.json"
    config.write_text(config.read_text().replace("1e-06", "1e-05"))
    assert model_digest(one) != before


def test_weights_that_are_not_read_do_not_change_the_digest(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="100KB")
    location = ModelLocation("owner/name", tmp_path, "local folder")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    before = model_digest(location)
    tiny_model().save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "model.safetensors").rename(tmp_path / "consolidated.safetensors")
    assert model_digest(location) == before


def test_the_built_in_model_has_a_digest():
    assert model_digest(TINY) == model_digest(TINY)
    assert len(model_digest(TINY)) == 64
