"""TensLoRA in models: the authors' numbers, the published counts, real heads, shared tensors."""

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
)

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.tenslora import (
    TensLoraConfig,
    TensLoraLinear,
    peft_config,
    tensor_names,
)
from toplora_train.adapters.tenslora_constructions import CONSTRUCTIONS
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "vocab_size": 40, "pad_token_id": 0}


def bert(**changes) -> BertModel:
    return BertModel(BertConfig(**{**SMALL, "vocab_size": 40, **changes}))


def decoder(config: type, model: type, **changes) -> Callable[[], PreTrainedModel]:
    return lambda: model(config(**{**GROUPED, **changes}))


ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": decoder(LlamaConfig, LlamaForCausalLM),
    "qwen2": decoder(Qwen2Config, Qwen2ForCausalLM),
    "mistral": decoder(MistralConfig, MistralForCausalLM),
    "gemma": decoder(GemmaConfig, GemmaForCausalLM, head_dim=8, num_key_value_heads=1),
    "bert": bert,
    "roberta": lambda: RobertaModel(RobertaConfig(**SMALL, vocab_size=40)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(dim=24, n_heads=4, n_layers=2, hidden_dim=40, vocab_size=40)
    ),
    "vit": lambda: ViTModel(ViTConfig(**SMALL, image_size=8, patch_size=4)),
    "t5": lambda: T5Model(
        T5Config(d_model=24, d_kv=6, num_heads=4, num_layers=2, d_ff=40, vocab_size=40)
    ),
}


def attached(model: nn.Module | None = None, seed: int = 1, **settings) -> PeftModel:
    model = tiny_model() if model is None else model
    return attach_adapter(model, {"name": "tenslora", **settings}, seed=seed)


def layers(model: nn.Module) -> dict[str, TensLoraLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, TensLoraLinear)}


def shaken(model: PeftModel, seed: int = 0) -> PeftModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return model.eval()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def ids(rows: int = 2) -> torch.Tensor:
    return torch.randint(2, 40, (rows, 6), generator=torch.Generator().manual_seed(3))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm() / expected.norm())


# -- the authors' numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
@pytest.mark.parametrize("factorization", ["tucker", "cp"])
def test_updates_and_outputs_equal_the_authors_code(
    construction: str, factorization: str, shared_dir: Path
):
    golden = f"tenslora_{construction}_{factorization}"
    made_with = json.loads((shared_dir / "goldens" / "index.json").read_text())[golden]
    tensors = load_file(shared_dir / "goldens" / f"{golden}.safetensors")
    model = attached(
        bert(
            hidden_size=made_with["hidden"],
            num_attention_heads=made_with["num_heads"],
            num_hidden_layers=made_with["num_layers"],
        ),
        construction=construction,
        factorization=factorization,
        scaling=made_with["scaling"],
        head_layout="reference",
        **{"ranks" if factorization == "tucker" else "r": made_with["ranks"]},
    ).eval()
    assert sum(p.numel() for p in trainable(model).values()) == made_with["trainable_parameters"]

    for q, layer_index, k in made_with["index_qkv_layer_tensor"]:
        projection = ("query", "key", "value")[q]
        layer = model.get_submodule(
            f"base_model.model.encoder.layer.{layer_index}.attention.self.{projection}"
        )
        names = tensor_names(layer.tenslora_slots["default"], layer.configs["default"])
        parts = ["core"] if factorization == "tucker" else []
        parts += [f"factor{mode}" for mode in range(len(names) - len(parts))]
        with torch.no_grad():
            for part, name in zip(parts, names.values(), strict=True):
                getattr(model.base_model, name)["default"].copy_(tensors[f"tensor{k}.{part}"])
        delta = tensors[f"delta.q{q}.l{layer_index}"]
        assert relative_error(layer.get_delta_weight("default").T, delta) < 1e-5
        y = layer(tensors["x"]) - layer.base_layer(tensors["x"])
        assert relative_error(y, tensors[f"y.q{q}.l{layer_index}"]) < 1e-5


PUBLISHED = {
    "att": (123_840, 261_504),
    "qkv": (74_640, 153_888),
    "depth": (18_768, 38_688),
    "att_qkv": (43_728, 130_464),
    "att_depth": (11_040, 32_832),
    "qkv_depth": (6_460, 16_504),
    "att_qkv_depth": (4_460, 39_640),
}


def count_on_a_base_encoder(**settings) -> int:
    with torch.device("meta"):
        model = bert(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    parameters = trainable(attached(model, **settings)).values()
    assert all(parameter.is_meta for parameter in parameters)
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_parameter_counts_are_the_published_ones(construction: str):
    counts = tuple(count_on_a_base_encoder(construction=construction, r=r) for r in (4, 8))
    assert counts == PUBLISHED[construction]


def test_the_parameter_count_of_cp_is_the_published_one():
    count = count_on_a_base_encoder(construction="att_qkv_depth", factorization="cp", r=8)
    assert count == 6_872


# -- heads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("construction", [c for c in CONSTRUCTIONS if "att" in c])
@pytest.mark.parametrize("factorization", ["tucker", "cp"])
def test_a_row_of_the_head_factor_affects_that_head_only(construction: str, factorization: str):
    model = shaken(attached(bert(), construction=construction, factorization=factorization, r=3))
    for layer in layers(model).values():
        slot, config = layer.tenslora_slots["default"], layer.configs["default"]
        factor = getattr(model.base_model, tensor_names(slot, config)["head"])["default"]
        for head in range(4):
            before = layer.get_delta_weight("default").detach()
            with torch.no_grad():
                factor[head] += 1
            change = layer.get_delta_weight("default").detach() - before
            moved = change.view(4, 6, 24).abs().amax(dim=(1, 2)) > 0
            assert moved.tolist() == [index == head for index in range(4)]


def dense_update(layer: TensLoraLinear, full_width: int) -> torch.Tensor:
    """The slice ``(d_in, full_width)`` for all query heads, from the dense tensor."""
    slot, config = layer.tenslora_slots["default"], layer.configs["default"]
    names = tensor_names(slot, config)
    tensor = getattr(layer, names["core"])["default"]
    for mode, name in enumerate(list(names.values())[1:]):
        factor = getattr(layer, name)["default"]
        tensor = torch.tensordot(tensor.movedim(mode, -1), factor.T, dims=1).movedim(-1, mode)
    M = tensor[(..., *slot.rows)]
    if "att" in config.construction:
        M = M.transpose(1, 2)  # head, then coordinate
    return M.reshape(-1, full_width) * config.scaling


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
@pytest.mark.parametrize(("name", "groups"), [("llama", 2), ("gemma", 1)])
def test_a_key_value_head_gets_the_mean_of_its_query_heads_updates(
    construction: str, name: str, groups: int
):
    model = attached(ARCHITECTURES[name](), construction=construction, r=3, scaling=0.5)
    shaken(model).double()
    size = 6 if name == "llama" else 8
    for module_name, layer in layers(model).items():
        whole = dense_update(layer, 4 * size).T.reshape(4, size, 24)
        if module_name.endswith("q_proj"):
            expected = whole
        else:
            shared = 4 // groups
            expected = torch.stack(
                [
                    sum(whole[h] for h in range(4) if h // shared == group) / shared
                    for group in range(groups)
                ]
            )
        delta = layer.get_delta_weight("default")
        torch.testing.assert_close(delta, expected.flatten(0, 1))
        assert delta.shape == layer.base_layer.weight.shape


def test_the_references_grouping_can_be_selected():
    model = shaken(attached(ARCHITECTURES["llama"](), r=3, gqa="reference")).double()
    layer = next(m for n, m in layers(model).items() if n.endswith("k_proj"))
    whole = dense_update(layer, 24)
    expected = (whole[:, :12] + whole[:, 12:]) / 2
    torch.testing.assert_close(layer.get_delta_weight("default"), expected.T)


# -- the method ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("construction", ["att", "att_qkv_depth", "depth", "qkv_depth"])
def test_it_fits_architectures_with_separate_q_k_and_v(name: str, construction: str):
    torch.manual_seed(0)
    model = shaken(attached(ARCHITECTURES[name](), construction=construction, r=3))
    attentions = 6 if name == "t5" else 2
    assert len(layers(model)) == 3 * attentions
    for layer in layers(model).values():
        A, B = layer.lora_factors("default")
        assert A.shape == (3, layer.in_features)
        assert B.shape == (layer.out_features, 3)
        x = torch.randn(2, layer.in_features)
        torch.testing.assert_close(layer(x) - layer.base_layer(x), x @ A.T @ B.T)


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
@pytest.mark.parametrize("factorization", ["tucker", "cp"])
@pytest.mark.parametrize("init", ["orthogonal", "kaiming", "normal"])
def test_the_update_is_exactly_zero_at_the_start(construction: str, factorization: str, init: str):
    settings = {"construction": construction, "factorization": factorization, "init": init}
    model = attached(bert(), **settings, r=3)
    x = torch.randn(3, 24)
    for layer in layers(model).values():
        assert not layer.get_delta_weight("default").any()
        assert torch.equal(layer(x), layer.base_layer(x))


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
@pytest.mark.parametrize("factorization", ["tucker", "cp"])
def test_every_tensor_is_used_and_gets_a_gradient(construction: str, factorization: str):
    model = shaken(attached(construction=construction, factorization=factorization, r=3)).train()
    model(input_ids=ids(), labels=ids()).loss.backward()
    for name, tensor in trainable(model).items():
        assert tensor.grad.abs().sum() > 0, name


@pytest.mark.parametrize("construction", ["qkv", "att"])
def test_tensors_are_drawn_independently(construction: str):
    starts = [
        tensor
        for name, tensor in trainable(attached(construction=construction)).items()
        if "_input_" in name
    ]
    assert len(starts) == {"qkv": 2, "att": 6}[construction]
    for one, other in itertools.combinations(starts, 2):
        assert not torch.allclose(one, other)


def test_scaling_is_a_plain_factor():
    deltas = []
    for scaling in (1.0, 3.0):
        layer = next(iter(layers(shaken(attached(r=4, scaling=scaling))).values()))
        deltas.append(layer.get_delta_weight("default"))
    torch.testing.assert_close(deltas[1], 3 * deltas[0])


def test_dropout_zeroes_inputs_in_training_only():
    model = shaken(attached(dropout=0.5))
    layer = next(iter(layers(model).values()))
    x = torch.ones(400, 64)
    A, B = layer.lora_factors("default")
    torch.testing.assert_close(layer.update(x, "default"), x @ A.T @ B.T)
    layer.train()
    dropped = layer.update(x, "default")
    assert len(dropped.unique(dim=0)) == 400
    exact = (x @ A.T @ B.T)[0]
    assert relative_error(dropped.mean(dim=0), exact) < 0.5
    torch.manual_seed(0)
    expected = torch.nn.functional.dropout(x, 0.5) @ A.T @ B.T
    torch.manual_seed(0)
    torch.testing.assert_close(layer.update(x, "default"), expected)


def test_ranks_per_mode_follow_the_constructions_order():
    model = attached(construction="att_qkv_depth", ranks=[8, 4, 3, 2, 1])
    shapes = {name.split(".")[1]: tuple(tensor.shape) for name, tensor in trainable(model).items()}
    assert shapes == {
        "tenslora_core": (8, 4, 3, 2, 1),
        "tenslora_input": (64, 8),
        "tenslora_coordinate": (16, 4),
        "tenslora_head": (4, 3),
        "tenslora_projection": (3, 2),
        "tenslora_layer": (2, 1),
    }


def test_the_core_is_contracted_in_float32_under_autocast_and_in_16_bits():
    model = shaken(attached())
    layer = next(iter(layers(model).values()))
    exact = layer.get_delta_weight("default")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(
            torch.equal(*pair)
            for pair in zip(layer.lora_factors("default"), _without_autocast(layer), strict=True)
        )
        assert layer(torch.randn(3, 64)).dtype == torch.bfloat16
    halved = model.bfloat16()
    assert all(factor.dtype == torch.float32 for factor in layer.lora_factors("default"))
    assert relative_error(layer.get_delta_weight("default"), exact) < 2e-2
    assert halved(input_ids=ids()).logits.dtype == torch.bfloat16


def _without_autocast(layer: TensLoraLinear) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autocast("cpu", enabled=False):
        return layer.lora_factors("default")


# -- shared tensors in PEFT ------------------------------------------------------------------------


def test_a_tensor_is_stored_once_under_a_flat_name():
    model = attached(construction="att")
    saved = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    assert set(saved) == {
        f"base_model.tenslora_{part}_{projection}_{layer}"
        for part in ("core", "input", "coordinate", "head")
        for projection in ("q_proj", "k_proj", "v_proj")
        for layer in (0, 1)
    }
    assert len({id(tensor) for tensor in trainable(model).values()}) == len(saved)
    assert set(trainable(model)) == {f"{name}.default" for name in saved}


@pytest.mark.parametrize("construction", ["att", "qkv", "depth", "qkv_depth"])
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_adapters_are_saved_and_loaded_under_any_name_with_others_present(
    construction: str, low_cpu_mem_usage: bool, tmp_path: Path
):
    first = shaken(attached(construction=construction, r=3), seed=1)
    second = shaken(attached(construction="att_depth", factorization="cp", r=5), seed=2)
    first.save_pretrained(tmp_path / "first", save_embedding_layers=False)
    second.save_pretrained(tmp_path / "second", save_embedding_layers=False)
    options = {"low_cpu_mem_usage": low_cpu_mem_usage}
    loaded = PeftModel.from_pretrained(
        tiny_model(), str(tmp_path / "second"), adapter_name="b", **options
    )
    loaded.load_adapter(str(tmp_path / "first"), adapter_name="core", **options)
    loaded.eval()
    for name, whole in (("b", second), ("core", first), ("b", second)):
        loaded.set_adapter(name)
        torch.testing.assert_close(loaded(ids()).logits, whole(ids()).logits)
    mixed = loaded(ids(3), adapter_names=["core", "__base__", "b"]).logits
    expected = [m(ids(3)[i : i + 1]).logits for i, m in enumerate((first, tiny_model(), second))]
    torch.testing.assert_close(mixed, torch.cat(expected))
    loaded.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    again = load_file(tmp_path / "again" / "core" / "adapter_model.safetensors")
    before = load_file(tmp_path / "first" / "adapter_model.safetensors")
    assert again.keys() == before.keys()
    assert all(torch.equal(again[key], before[key]) for key in before)


def test_deleting_an_adapter_frees_its_tensors_and_leaves_the_other():
    model = shaken(attached(construction="depth"), seed=1)
    model.add_adapter("second", TensLoraConfig(construction="depth", task_type="CAUSAL_LM"))
    model.set_adapter("second")
    shaken(model, seed=2)
    expected = model(ids()).logits
    model.delete_adapter("default")
    assert torch.equal(model(ids()).logits, expected)
    assert all(name.endswith(".second") for name in trainable(model))
    assert not any("default" in name.split(".") for name, _ in model.named_parameters())
    model.add_adapter("default", TensLoraConfig(construction="att", task_type="CAUSAL_LM"))
    model.set_adapter("default")
    assert torch.equal(model(ids()).logits, tiny_model()(ids()).logits)


def test_loading_another_adapter_leaves_the_active_one_trainable(tmp_path: Path):
    model = attached()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    before = set(trainable(model))
    model.load_adapter(str(tmp_path), adapter_name="frozen")
    assert set(trainable(model)) == before
    model.set_adapter("frozen")
    assert set(trainable(model)) == {name.replace(".default", ".frozen") for name in before}


def test_a_copy_refers_to_its_own_tensors():
    model = shaken(attached())
    expected = model(ids()).logits
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in trainable(model).values():
            tensor.zero_()
    assert torch.equal(other(ids()).logits, expected)
    shared = {id(tensor) for tensor in other.base_model.parameters()}
    for layer in layers(other).values():
        for name in layer.adapter_layer_names:
            assert id(getattr(layer, name)["default"]) in shared


def test_it_is_float32_on_16_bit_models_by_default():
    for autocast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        model = peft.get_peft_model(
            tiny_model().bfloat16(), TensLoraConfig(), autocast_adapter_dtype=autocast
        )
        assert {tensor.dtype for tensor in trainable(model).values()} == {dtype}
        model(input_ids=ids(), labels=ids()).loss.backward()


def test_it_is_exactly_a_plain_lora_of_its_rank():
    model = shaken(attached(r=4, construction="att_qkv_depth"))
    expected = model(ids()).logits
    lora = peft.get_peft_model(
        tiny_model(),
        peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj"]),
    ).eval()
    with torch.no_grad():
        for name, layer in layers(model).items():
            A, B = layer.lora_factors("default")
            other = lora.get_submodule(name)
            other.lora_A["default"].weight.copy_(A)
            other.lora_B["default"].weight.copy_(B)
    torch.testing.assert_close(lora(ids()).logits, expected)


def test_fewer_targets_and_layers_make_smaller_modes():
    model = attached(target_modules=["q_proj", "v_proj"], layers_to_transform=[1], r=2)
    shapes = {name.split(".")[1]: tensor.shape for name, tensor in trainable(model).items()}
    assert shapes["tenslora_projection"] == (2, 2)
    assert shapes["tenslora_layer"] == (1, 2)
    assert [name.split("layers.")[1] for name in layers(model)] == [
        "1.self_attn.q_proj",
        "1.self_attn.v_proj",
    ]


def test_all_linear_layers_have_a_tensor_per_projection_in_depth():
    model = attached(target_modules="all-linear", construction="depth", r=4)
    assert len(layers(model)) == 14
    cores = {name for name in trainable(model) if "_core_" in name}
    assert len(cores) == 7


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"construction": "qkv_att"}, "construction must be one of att, qkv, depth, att_qkv"),
        ({"factorization": "tt"}, "factorization must be one of tucker, cp, not 'tt'"),
        ({"r": 0}, "r must be a positive integer, not 0"),
        ({"scaling": 0}, "scaling must be a positive number, not 0"),
        ({"init": "zeros"}, "init must be one of orthogonal, kaiming, normal"),
        ({"head_layout": "hd"}, "head_layout must be one of model, reference"),
        ({"gqa": "mean"}, "gqa must be one of group, reference"),
        ({"dropout": 1}, "dropout must be a number from 0 to below 1"),
        ({"ranks": 4}, "ranks must be a list with a rank per mode, or null, not 4"),
        (
            {"ranks": [4, 4]},
            "ranks must have 4 entries, for the modes input, output, projection, layer of "
            "construction=qkv_depth, not 2",
        ),
        ({"ranks": [4, 4, 0, 1]}, "ranks of mode projection must be a positive integer, not 0"),
        (
            {"ranks": [4, 4, 2, 2], "factorization": "cp"},
            "ranks must be null with factorization=cp, whose only rank is r",
        ),
        ({"alpha": 16}, "alpha is not a setting of this adapter"),
        ({"rank_pattern": {}}, "rank_pattern is not a setting of this adapter"),
    ],
)
def test_a_bad_setting_is_refused_by_a_message_that_begins_with_its_key(
    settings: dict, message: str
):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        peft_config(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 65}, r"adapter\.r must be at most 64, the inputs of model\.layers\.0\.self_attn"),
        (
            {"ranks": [8, 8, 4, 2]},
            r"adapter\.ranks must not exceed the sizes of the modes, but mode projection has rank "
            r"4 and size 3 \(at model\.layers\.0\.self_attn\.q_proj\)",
        ),
        (
            {"target_modules": ["q_proj", "up_proj"], "construction": "qkv_depth"},
            r"adapter\.construction 'qkv_depth' needs modules of the same shape in a tensor, but "
            r"model\.layers\.0\.mlp\.up_proj is 64 -> 128",
        ),
        ({"target_modules": ["query"]}, r"adapter\.target_modules names 'query', which matches no"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_the_model_is_changed(
    settings: dict, message: str
):
    model = tiny_model()
    with pytest.raises(UserError, match=f"^{message}"):
        attached(model, **settings)
    assert not layers(model)
