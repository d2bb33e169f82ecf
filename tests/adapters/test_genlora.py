"""GenLoRA against its equation entry by entry, and against plain LoRA."""

import math

import peft
import pytest
import torch
from torch import nn
from torch.utils._device import _device_constructors
from transformers.initialization import meta_device_safe_creation_ops

from toplora_train.adapters import genlora
from toplora_train.adapters.attach import attach_adapter, without_weights
from toplora_train.adapters.genlora import (
    GenLoraConfig,
    GenLoraLinear,
    Parts,
    initial_grid,
    peft_config,
    radial_basis,
    synthesise,
)
from toplora_train.config.adapter import adapter_defaults
from toplora_train.models.tiny import tiny_model

BASE_TERMS = ("none", "linear", "silu")


def new_layer(in_features: int = 23, out_features: int = 40, *, seed: int = 3, **settings):
    """One adapted layer as it starts."""
    torch.manual_seed(seed)
    base = nn.Linear(in_features, out_features).requires_grad_(False)
    config = GenLoraConfig(**{"r": 4, "num_groups": 4, "num_kernels": 3, **settings})
    return GenLoraLinear(base, "default", config, "linear")


def trained_layer(in_features: int = 23, out_features: int = 40, **settings) -> GenLoraLinear:
    """One adapted layer with nothing at zero, so that no gradient vanishes."""
    layer = new_layer(in_features, out_features, **settings)
    with torch.no_grad():
        for name in layer.adapter_layer_names:
            for tensor in getattr(layer, name).values():
                tensor.add_(torch.randn_like(tensor) / 4)
    return layer


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def effective_rank(matrix: torch.Tensor) -> float:
    """The exponential of the entropy of the singular values (Roy and Vetterli, 2007)."""
    share = torch.linalg.svdvals(matrix.detach())
    share = share / share.sum()
    return math.exp(-float((share * share.clamp_min(1e-12).log()).sum()))


def written_out(layer: GenLoraLinear, matrix: str) -> torch.Tensor:
    """A, or B transposed, one entry after the other."""
    config = layer.configs["default"]
    parts = {
        part: getattr(layer, f"genlora_{part}_{matrix}").get("default")
        for part in ("z", "w", "c", "rho", "b")
    }
    width = len(parts["z"])
    size = -(-width // config.num_groups)
    points = torch.linspace(*config.grid, config.num_kernels, dtype=torch.float64)
    rows = []
    for i in range(config.r):
        for j in range(width):
            g, z = j // size, parts["z"][j]
            entry = torch.zeros((), dtype=torch.float64)
            for k in range(config.num_kernels):
                c = points[k] if parts["c"] is None else parts["c"][i, g, k]
                h = points[1] - points[0] if parts["rho"] is None else parts["rho"][i, g, k].exp()
                entry = entry + parts["w"][i, g, k] * torch.exp(-(((z - c) / h) ** 2))
            if config.base_term == "linear":
                entry = entry + parts["b"][i, g] * z
            elif config.base_term == "silu":
                entry = entry + parts["b"][i, g] * z * torch.sigmoid(z)
            rows.append(entry)
    return torch.stack(rows).view(config.r, width)


@pytest.mark.parametrize("base_term", BASE_TERMS)
@pytest.mark.parametrize("learned_grid", [True, False])
def test_the_update_is_the_equation_even_if_the_last_group_is_shorter(
    base_term: str, learned_grid: bool
):
    layer = trained_layer(
        base_term=base_term, learned_grid=learned_grid, grid=[-1.5, 2.5], use_rslora=True
    ).double()
    A, B = written_out(layer, "A"), written_out(layer, "B").T
    x = torch.randn(2, 5, 23, dtype=torch.float64)
    # Without a learned grid the grid is float32.
    tolerance = 1e-12 if learned_grid else 1e-6
    expected = layer.base_layer(x) + 16 / math.sqrt(4) * x @ A.T @ B.T
    assert relative_error(layer(x), expected) < tolerance
    assert relative_error(layer.get_delta_weight("default"), 8 * B @ A) < tolerance


@pytest.mark.parametrize("base_term", BASE_TERMS)
@pytest.mark.parametrize("learned_grid", [True, False])
def test_gradients_agree_with_finite_differences(
    base_term: str, learned_grid: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(genlora, "VALUES_AT_A_TIME", 2 * 6 * 3)  # two rows of A at a time
    layer = trained_layer(
        6, 5, r=3, num_groups=2, base_term=base_term, learned_grid=learned_grid
    ).double()
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    parameters = tuple(p for p in layer.parameters() if p.requires_grad)
    assert len(parameters) == 2 * (2 + 2 * learned_grid + (base_term != "none"))
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *parameters))


def test_chunking_the_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    layer = trained_layer(r=5)
    x = torch.randn(3, 23)
    at_once = layer(x)
    monkeypatch.setattr(genlora, "VALUES_AT_A_TIME", 1)
    assert torch.equal(layer(x), at_once)


@pytest.mark.parametrize("base_term", BASE_TERMS)
def test_the_update_is_exactly_zero_at_the_start(base_term: str):
    layer = new_layer(base_term=base_term)
    x = torch.randn(7, 23)
    assert torch.equal(layer(x), layer.base_layer(x))
    assert not layer.get_delta_weight("default").any()


@pytest.mark.parametrize("base_term", BASE_TERMS)
@pytest.mark.parametrize("grid", [[-2.0, 2.0], [0.0, 3.0]])
def test_the_entries_of_a_have_loras_initial_variance(base_term: str, grid: list[float]):
    layer = new_layer(600, 16, r=64, num_groups=16, num_kernels=8, base_term=base_term, grid=grid)
    A, _ = layer.lora_factors("default")
    assert A.square().mean().item() * 3 * 600 == pytest.approx(1, rel=0.05)


def test_latent_vectors_are_drawn_independently():
    torch.manual_seed(0)
    config = GenLoraConfig(r=4, num_groups=4)
    layers = [GenLoraLinear(nn.Linear(16, 16), "default", config, "linear") for _ in range(2)]
    latents = [
        latent["default"] for layer in layers for latent in (layer.genlora_z_A, layer.genlora_z_B)
    ]
    assert len({tuple(latent.tolist()) for latent in latents}) == 4


def test_basis_functions_lie_between_zero_and_one_and_are_one_at_their_centres():
    centres, log_widths = initial_grid(8, -2, 2)
    points = torch.linspace(-9, 9, 200)[None]
    values = radial_basis(points, centres[None, None], log_widths[None, None])
    assert values.min() >= 0
    assert values.max() <= 1
    at_centres = radial_basis(centres[None], centres[None, None], log_widths[None, None])
    assert torch.equal(at_centres[0, 0].diagonal(), torch.ones(8))


def test_the_initial_grid_is_even_with_its_spacing_as_width():
    centres, log_widths = initial_grid(8, -2, 2)
    torch.testing.assert_close(centres.diff(), torch.full((7,), 4 / 7))
    torch.testing.assert_close(log_widths.exp(), torch.full((8,), 4 / 7))


def test_the_update_has_at_most_rank_r():
    delta = trained_layer(64, 48, r=5).double().get_delta_weight("default")
    assert torch.linalg.matrix_rank(delta) == 5


def test_the_linear_base_term_alone_with_one_group_has_rank_one():
    layer = trained_layer(64, 48, r=5, num_groups=1, base_term="linear").double()
    with torch.no_grad():
        layer.genlora_w_A["default"].zero_()
        layer.genlora_w_B["default"].zero_()
    assert torch.linalg.matrix_rank(layer.get_delta_weight("default")) == 1


def test_more_groups_increase_the_effective_rank():
    ranks = []
    for groups in (1, 4, 16):
        layer = new_layer(512, 16, r=32, num_groups=groups, num_kernels=8)
        ranks.append(effective_rank(layer.lora_factors("default")[0]))
    assert ranks[0] < 8
    assert ranks[0] + 8 < ranks[1] < ranks[2]
    assert 25 < ranks[2] <= 32


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 64 + 96 + 6 * 4 * 8 * 3),
        ({"learned_grid": False}, 64 + 96 + 2 * 4 * 8 * 3),
        ({"base_term": "silu"}, 64 + 96 + 6 * 4 * 8 * 3 + 2 * 4 * 8),
    ],
)
def test_the_parameter_count_is_the_documented_one(settings: dict, expected: int):
    layer = new_layer(64, 96, r=4, num_groups=8, num_kernels=3, **settings)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("learned_grid", [True, False])
def test_merged_and_unmerged_compute_the_same(learned_grid: bool):
    layer = trained_layer(learned_grid=learned_grid, base_term="silu")
    x = torch.randn(5, 23)
    before = layer(x)
    weight = layer.base_layer.weight.clone()
    layer.merge(safe_merge=True)
    assert not torch.equal(layer.base_layer.weight, weight)
    assert relative_error(layer(x), before) < 1e-6
    layer.unmerge()
    assert relative_error(layer(x), before) < 1e-6


def test_it_is_a_plain_lora_of_rank_r():
    layer = trained_layer(r=4, alpha=12)
    A, B = layer.lora_factors("default")
    assert A.shape == (4, 23)
    assert B.shape == (40, 4)
    holder = nn.Sequential(nn.Linear(23, 40))
    holder[0].load_state_dict(layer.base_layer.state_dict())
    lora = peft.get_peft_model(holder, peft.LoraConfig(r=4, lora_alpha=4, target_modules=["0"]))
    with torch.no_grad():
        lora.base_model.model[0].lora_A["default"].weight.copy_(A)
        lora.base_model.model[0].lora_B["default"].weight.copy_(B)
    x = torch.randn(5, 23)
    assert relative_error(layer(x), lora(x)) < 1e-6


class KeptForBackward:
    """The bytes that autograd keeps besides parameters, each storage once."""

    def __init__(self, layer: nn.Module) -> None:
        self.storages: dict[int, int] = {}
        self._known = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        self._kept: list[torch.Tensor] = []  # so that no address is reused

    def __enter__(self) -> "KeptForBackward":
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._hooks.__exit__(*args)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._kept.append(tensor)
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        return sum(self.storages.values())


@pytest.mark.parametrize("learned_grid", [True, False])
def test_a_step_keeps_a_and_b_but_no_basis_function_values(learned_grid: bool):
    n, m, r, tokens = 512, 256, 64, 8
    layer = new_layer(n, m, r=r, num_groups=16, num_kernels=8, learned_grid=learned_grid)
    x = torch.randn(tokens, n, requires_grad=True)

    with KeptForBackward(layer) as kept:
        layer(x).sum().backward()
    a_and_b = 4 * r * (n + m)
    activations = 4 * tokens * (n + r)
    latents = 4 * 2 * (n + n)  # by groups, B's padded to A's
    joined = 4 * (3 if learned_grid else 1) * r * 2 * 16 * 8
    assert a_and_b < kept.total <= a_and_b + activations + latents + joined


@pytest.mark.parametrize("learned_grid", [True, False])
def test_sixteen_bit_tensors_are_synthesised_in_float32(learned_grid: bool):
    layer = trained_layer(learned_grid=learned_grid)
    half = trained_layer(learned_grid=learned_grid).bfloat16()
    with torch.no_grad():
        for tensor, rounded in zip(layer.parameters(), half.parameters(), strict=True):
            tensor.copy_(rounded)
    for found, expected in zip(
        half.lora_factors("default"), layer.lora_factors("default"), strict=True
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    x = torch.randn(5, 23).bfloat16()
    y = half(x)
    assert y.dtype == torch.bfloat16
    assert relative_error(y, layer(x.float())) < 2e-2


def test_autocast_leaves_the_synthesis_in_float32():
    layer = trained_layer(learned_grid=False)
    x = torch.randn(5, 23)
    expected = layer(x), layer.lora_factors("default")[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, A = layer(x), layer.lora_factors("default")[0]
        (gradient,) = torch.autograd.grad(A.sum(), layer.genlora_w_A["default"])
    assert torch.equal(A, expected[1])
    assert gradient.dtype == torch.float32
    assert y.dtype == torch.bfloat16
    assert relative_error(y, expected[0]) < 2e-2


def test_dropout_acts_on_the_input_in_training_only():
    layer = trained_layer(dropout=0.5)
    with torch.no_grad():
        layer.base_layer.weight.zero_()
    x = torch.randn(1, 23)
    assert relative_error(layer.train()(x), layer.eval()(x)) > 0.05
    assert torch.equal(layer.eval()(x), layer.eval()(x))


def test_a_shared_grid_equals_one_repeated_for_every_row_and_group():
    latent, weights = torch.randn(10), torch.randn(4, 2, 5)
    points = [values[None, None] for values in initial_grid(5, -2, 2)]
    repeated = [values.expand_as(weights) for values in points]
    torch.testing.assert_close(
        synthesise(Parts(latent, weights, *points)), synthesise(Parts(latent, weights, *repeated))
    )


@pytest.mark.parametrize(("groups", "width", "use"), [(48, 64, 32), (65, 64, 64), (6, 9, 5)])
def test_groups_that_would_be_empty_are_refused(groups: int, width: int, use: int):
    with pytest.raises(ValueError, match=rf"^num_groups must .* inputs of linear .*; use {use}$"):
        new_layer(width, 960, num_groups=groups)
    assert new_layer(width, 960, num_groups=use)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r must be a positive integer, not 0"),
        ({"num_kernels": 1}, "num_kernels must be at least 2"),
        ({"num_kernels": 2.0}, r"num_kernels must be a positive integer, not 2\.0"),
        ({"num_groups": 0}, "num_groups must be a positive integer, not 0"),
        ({"learned_grid": 1}, "learned_grid must be true or false, not 1"),
        ({"grid": 2}, "grid must be a list of two numbers, not 2"),
        ({"grid": [1]}, r"grid must be a list of two numbers, not \[1\]"),
        ({"grid": [True, 2]}, "grid must be a list of two numbers"),
        ({"grid": [2, -2]}, "grid must be two numbers, the second one greater"),
        ({"grid": [0, math.inf]}, "grid must be two numbers, the second one greater"),
        ({"base_term": None}, "base_term must be one of none, linear, silu, not None"),
        ({"kernels": 4}, "kernels is not a setting of this adapter; it has"),
    ],
)
def test_a_bad_setting_is_refused_by_a_message_that_begins_with_its_key(
    settings: dict, message: str
):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        peft_config(settings)


@pytest.fixture
def replaced_linspace():
    """torch collects its factory functions once, and may collect a replaced ``torch.linspace``."""
    _device_constructors.cache_clear()
    with meta_device_safe_creation_ops():
        _device_constructors()
    yield
    _device_constructors.cache_clear()


@pytest.mark.usefixtures("replaced_linspace")
def test_it_attaches_without_weights_after_transformers_has_replaced_linspace():
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).device.type == "cpu"
    settings, _ = adapter_defaults("genlora")
    adapted = attach_adapter(without_weights(tiny_model()), settings, seed=0)
    assert all(parameter.is_meta for parameter in adapted.parameters())
