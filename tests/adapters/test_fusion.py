"""A fusion of trained adapters: its equation, its gate's extremes, its file and its limits."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.describe import describe_adapter
from toplora_train.adapters.fusion import FusionLinear, fusion_weights, gate_name
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.contract.subject import encoder, logits, shaken, token_ids
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.tiny import tiny_model

KINDS: dict[str, tuple[str, dict]] = {
    "lora": ("lora", {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "lora-ranks": ("lora", {"rank_pattern": {"k_proj": 2}, "use_rslora": True}),
    "dora": ("dora", {"r": 2, "target_modules": ["q_proj", "up_proj"]}),
    "toplora": ("toplora", {"r": 3}),
    "toplora-sigmoid": ("toplora", {"gate": {"activation": "sigmoid", "norm": "none"}}),
    "tenslora": ("tenslora", {}),
    "genlora": ("genlora", {}),
    "sbora": ("sbora", {}),
    "orthogonal": ("orthogonal", {}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """An adapter of every kind, its folder by name."""
    found = {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        folder = tmp_path_factory.mktemp("runs") / name / "adapter"
        save_adapter(shaken(attached(*kind), seed=seed, size=0.05), folder)
        found[name] = str(folder.parent)
    return found


def attached(name: str, changes: dict, model=None) -> PeftModel:
    defaults, _ = adapter_defaults(name)
    still = {"dropout": 0.0} if "dropout" in defaults else {}
    return attach_adapter(model or tiny_model(), defaults | still | changes, seed=1)


def fused(*folders: str, model=None) -> PeftModel:
    return attached("fusion", {"runs": list(folders)}, model).eval()


def set_gates(model: PeftModel, weights: list[float] | None, seed: int = 3) -> None:
    """The same weights for every token, or gates that depend on it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            if not tensor.requires_grad:
                continue
            if weights is None:
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                k = len(weights)
                start = torch.tensor(weights) - 1 / k if tensor.ndim == 1 else torch.zeros(())
                tensor.copy_(start.expand(tensor.shape))


def test_the_output_is_the_weighted_sum_of_what_each_adapter_adds_on_its_own(runs):
    model = fused(*runs.values()).double()
    set_gates(model, None)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    hidden: dict[int, Tensor] = {}
    base = model.get_base_model()
    for number, layer in enumerate(base.model.layers):
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, n=number: hidden.update({n: (*args, *kwargs.values())[0]}),
            with_kwargs=True,
        )
    layers = {n: m for n, m in base.named_modules() if isinstance(m, FusionLinear)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, n=name: inputs.update({n: args[0]}))
        layer.register_forward_hook(lambda _, __, out, n=name: outputs.update({n: out}))
    logits(model)
    assert len(layers) == 2 * 5  # q, k, v, up and down of two layers
    folders = [Path(run) / "adapter" for run in runs.values()]
    alone = [load_adapter(tiny_model(), one, kernel="peft").double() for one in folders]
    for name, layer in layers.items():
        number = int(name.split(".")[2])
        W, b = (getattr(model.base_model, f"fusion_{p}_model_layers_{number}") for p in ("W", "b"))
        h = hidden[number]
        w = torch.softmax(h @ W["default"].T, dim=-1) + b["default"]
        x, expected = inputs[name], layer.base_layer(inputs[name])
        for i, one in enumerate(alone):
            own = one.get_base_model().get_submodule(name)
            if hasattr(own, "base_layer"):
                expected = expected + w[..., i : i + 1] * (own(x) - own.base_layer(x))
        torch.testing.assert_close(outputs[name], expected, atol=1e-6, rtol=1e-6)


def test_the_weights_of_a_texts_tokens_are_the_gates_of_what_enters_their_layer(runs):
    model = fused(*runs.values())
    set_gates(model, None)
    ids, entering = [5, 9, 30, 4], []
    layer = model.base_model.model.model.layers[1]
    hook = layer.register_forward_pre_hook(
        lambda _module, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    found = fusion_weights(model, ids)
    hook.remove()
    assert list(found) == ["model.layers.0", "model.layers.1"]
    gate = {
        part: getattr(model.base_model, gate_name(part, "model.layers.1"))["default"]
        for part in ("W", "b")
    }
    with torch.no_grad():
        expected = (entering[0][0] @ gate["W"].T).softmax(dim=-1) + gate["b"]
    torch.testing.assert_close(found["model.layers.1"], expected)
    assert fusion_weights(attached("lora", {}), ids) == {}


@pytest.mark.parametrize("chosen", ["lora", "dora", "toplora", "genlora"])
def test_with_all_weight_on_one_adapter_it_is_that_adapter(runs, chosen: str):
    others = [name for name in ("lora", "dora", "toplora", "genlora") if name != chosen]
    model = fused(runs[others[0]], runs[chosen], runs[others[1]])
    set_gates(model, [0.0, 1.0, 0.0])
    alone = load_adapter(tiny_model(), Path(runs[chosen]) / "adapter")
    torch.testing.assert_close(logits(model), logits(alone), atol=1e-5, rtol=1e-5)


def test_it_starts_at_the_mean_of_the_updates_and_only_the_gates_are_trained(runs):
    model = fused(runs["lora"], runs["toplora"])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    layer.layer_input.hidden = x = torch.randn(2, 3, 64)
    torch.testing.assert_close(layer.weights(x, "default"), torch.full((2, 3, 2), 0.5))
    model.train()(input_ids=token_ids(), labels=token_ids()).loss.backward()
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trained == {
        f"base_model.fusion_{part}_model_layers_{number}.default"
        for part in ("W", "b")
        for number in (0, 1)
    }
    for name, tensor in model.named_parameters():
        assert (tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)) == (name in trained)
    assert describe_adapter(model) == {
        "peft_type": "FUSION",
        "trainable_parameters": 2 * 2 * (64 + 1),
        "mergeable": False,
    }


def test_saved_it_needs_none_of_its_adapters_and_reloads_to_the_same_bits(runs, tmp_path: Path):
    model = fused(*(runs[name] for name in ("lora", "dora", "toplora-sigmoid", "toplora")))
    set_gates(model, None)
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert [one["name"] for one in config["experts"]] == [
        "lora",
        "dora",
        "toplora-sigmoid",
        "toplora",
    ]
    assert not any(runs["lora"] in value for value in map(str, config.values()))
    for loaded in (
        load_adapter(tiny_model(), tmp_path),
        PeftModel.from_pretrained(tiny_model(), tmp_path),
        PeftModel.from_pretrained(tiny_model(), tmp_path, low_cpu_mem_usage=True),
    ):
        assert torch.equal(logits(loaded), logits(model))
    further = load_adapter(tiny_model(), tmp_path, trainable=True)
    assert describe_adapter(further) == describe_adapter(model)
    assert {
        name.split(".")[-1].split("_")[1]
        for name in load_file(tmp_path / "adapter_model.safetensors")
    } == {"A", "B", "theta", "gain", "change", "W", "b"}


def test_activation_checkpointing_changes_no_gradient(runs):
    gradients = []
    for checkpointing in (False, True):
        model = fused(runs["lora"], runs["dora"]).train()
        set_gates(model, None)
        if checkpointing:
            checkpoint_activations(model.get_base_model())
        model(input_ids=token_ids(), labels=token_ids()).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_cached_generation_agrees_with_the_logits(runs):
    model = fused(runs["lora"], runs["toplora"])
    set_gates(model, None)
    ids = token_ids(rows=2, length=5)
    mask, keywords = torch.ones_like(ids), {"max_new_tokens": 3, "do_sample": False}
    found = model.generate(input_ids=ids, attention_mask=mask, eos_token_id=None, **keywords)
    for _ in range(3):
        following = logits(model, input_ids=ids)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
    assert torch.equal(found, ids)


def test_disabled_or_unloaded_it_is_the_base_model_and_it_does_not_merge(runs):
    model = fused(runs["lora"], runs["toplora"])
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model()))
    with pytest.raises(UserError, match=r"cannot be merged: .* toplora-fuse method=cat"):
        model.merge_and_unload()
    with pytest.raises(UserError, match="cannot share a batch"):
        model(input_ids=token_ids(), adapter_names=["default", "__base__"])
    base = model.unload()
    assert torch.equal(logits(base), logits(tiny_model()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.modules())


def test_half_precision_and_a_model_without_weights(runs, tmp_path: Path):
    half = fused(runs["dora"], runs["toplora"], model=tiny_model().bfloat16())
    assert logits(half).dtype == torch.bfloat16
    save_adapter(half, tmp_path)
    loaded = load_adapter(tiny_model().bfloat16(), tmp_path)
    assert torch.equal(logits(loaded), logits(half))
    empty = fused(runs["dora"], runs["toplora"], model=tiny_model().to("meta"))
    assert all(tensor.is_meta for tensor in empty.parameters())


def changed(folder: str, to: Path, **changes) -> str:
    """A copy of an adapter with another config."""
    target = to / "changed"
    target.mkdir()
    for file in (Path(folder) / "adapter").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | changes))
    return str(target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_type": "SEQ_CLS"}, r"changed was trained for a head \(SEQ_CLS\)"),
        ({"modules_to_save": ["lm_head"]}, r"changed has modules that were trained whole"),
        ({"alora_invocation_tokens": [3]}, r"changed has invocation tokens"),
        ({"bias": "all"}, r"changed has trained biases"),
        ({"lora_bias": True}, r"changed has biases in its updates \(lora_bias\)"),
        ({"target_parameters": ["mlp.experts"]}, r"changed has updates of single parameters"),
        ({"trainable_token_indices": [3]}, r"changed has tokens that were trained whole"),
    ],
)
def test_an_adapter_that_is_more_than_its_updates_is_refused(runs, tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"^adapter\.runs: .*{message}"):
        fused(runs["toplora"], changed(runs["lora"], tmp_path, **changes))


def test_an_adapter_of_an_embedding_is_refused_by_the_tensor_that_would_be_lost(runs, tmp_path):
    targets = {"target_modules": ["q_proj", "embed_tokens"]}
    save_adapter(attached("lora", targets), tmp_path / "tokens" / "adapter")
    with pytest.raises(
        UserError, match=r"tokens has .*embed_tokens\.lora_embedding_A, which is no"
    ):
        fused(runs["lora"], str(tmp_path / "tokens"))


def test_what_cannot_be_fused_is_refused_in_one_line(runs, tmp_path: Path):
    with pytest.raises(UserError, match="needs two or more different runs"):
        fused(runs["lora"])
    with pytest.raises(UserError, match="needs two or more different runs"):
        fused(runs["lora"], runs["lora"])
    with pytest.raises(UserError, match="65 runs are given; at most 64 can be fused"):
        fused(*map(str, range(65)))
    with pytest.raises(UserError, match=r"has no adapter_config.json; give a finished run"):
        fused(runs["lora"], str(tmp_path))
    other = changed(runs["lora"], tmp_path, base_model_name_or_path="owner/other")
    tiny = tiny_model().name_or_path
    with pytest.raises(UserError, match=rf"dora was trained on {tiny}, but .* on owner/other"):
        fused(runs["dora"], other)
    base = tiny_model()
    base.config.name_or_path = base.name_or_path = "owner/base"
    with pytest.raises(UserError, match=rf"on {tiny}, but this run's base model is owner/base"):
        fused(runs["dora"], runs["lora"], model=base)
    with pytest.raises(UserError, match="adapter=fusion: it is for models that generate text"):
        fused(runs["lora"], runs["dora"], model=encoder())


def test_an_adapter_without_thin_factors_is_refused_by_its_run(runs, tmp_path: Path):
    save_adapter(attached("gralora", {}), tmp_path / "block" / "adapter")
    with pytest.raises(UserError, match=r"block has no two thin factors .* lora, dora, toplora"):
        fused(runs["lora"], str(tmp_path / "block"))
    ranks = {"r": 4, "rank_pattern": {"k_proj": 2}}
    save_adapter(attached("toplora", ranks), tmp_path / "uneven" / "adapter")
    with pytest.raises(UserError, match=r"uneven is TopLoRA with different ranks \(2 to 4\)"):
        fused(runs["lora"], str(tmp_path / "uneven"))
