"""The fused layer against PyTorch's operations in float64, and the rule when it is used."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.adapters.variants import MODELS
from toplora_train.adapters import projection
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.fused import can_fuse, fused_linear
from toplora_train.adapters.low_rank import Gate, LowRank, composed_update
from toplora_train.adapters.toplora import ACTIVATIONS, NORMS, gate_of
from toplora_train.config.adapter import adapter_defaults

N, M, R, ROWS = 24, 20, 5, (3, 7)
GATES = [None, *((activation, norm) for activation in ACTIVATIONS for norm in NORMS)]


class Layer:
    """A frozen layer, factors and an input, all random."""

    def __init__(self, gate=None, *, dtype=torch.float64, wide=None, bias=True) -> None:
        torch.manual_seed(3)
        wide = wide or dtype
        self.base = nn.Linear(N, M, bias=bias, dtype=dtype).requires_grad_(False)
        self.A, self.B, self.theta = (
            (torch.randn(*shape, dtype=wide) / 4).requires_grad_()
            for shape in [(R, N), (M, R), (N, R)]
        )
        self.gain = torch.rand(R, dtype=wide).requires_grad_()
        self.x = torch.randn(*ROWS, N, dtype=dtype).requires_grad_()
        self.dy = torch.randn(*ROWS, M, dtype=dtype)
        made = None
        if gate is not None:
            activation, norm = gate
            function = partial(gate_of, activation=activation, norm=norm, epsilon=1e-6)
            epsilon = 1e-6 if gate == ("exp", "rms") else None
            made = Gate(self.theta, None if norm == "none" else self.gain, function, epsilon)
        self.factors = LowRank(self.A, self.B, 1.7, made)
        gate_tensors = [] if made is None else [t for t in made[:2] if t is not None]
        self.inputs = [self.x, self.A, self.B, *gate_tensors]

    def composed(self, dropout: nn.Module) -> list[torch.Tensor]:
        return self.results(self.base(self.x) + composed_update(self.x, self.factors, dropout))

    def fused(self, dropout: nn.Module) -> list[torch.Tensor]:
        return self.results(fused_linear(self.x, self.base, self.factors, dropout))

    def results(self, y: torch.Tensor) -> list[torch.Tensor]:
        return [y, *torch.autograd.grad(y, self.inputs, self.dy)]


class Masked(nn.Module):
    """Dropout with the mask that the fused layer draws next."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**62, ()))
        rows = x.numel() // N
        ones, eye = x.new_ones(rows, N), torch.eye(N, dtype=x.dtype)
        return x * projection.project(ones, eye, self.p, seed, N).view_as(x)


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
def test_output_and_gradients_are_those_of_autograd(gate, hooked):
    layer = Layer(gate, bias=not hooked)
    if hooked:
        layer.base.register_forward_hook(lambda *_: None)
    for ours, expected in zip(
        layer.fused(nn.Identity()), layer.composed(nn.Identity()), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_with_dropout_they_are_those_of_the_same_mask():
    for gate in (None, ("exp", "rms")):
        layer = Layer(gate)
        with torch.random.fork_rng(devices=[]):
            if gate is None:
                expected = layer.composed(Masked(0.4))
            else:  # the composed form drops nothing where the module is not nn.Dropout
                hidden = Masked(0.4)(layer.x) @ layer.A.T
                weights = layer.factors.gate.function(layer.x @ layer.theta, layer.gain)
                y = layer.base(layer.x) + 1.7 * (hidden * weights) @ layer.B.T
                expected = layer.results(y)
        for ours, wanted in zip(layer.fused(nn.Dropout(0.4)), expected, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", [None, ("exp", "rms")], ids=str)
def test_in_bf16_it_is_no_further_from_float64_than_the_composed_form(gate):
    exact = Layer(gate)
    for wide in (torch.bfloat16, torch.float32):
        half = Layer(gate, dtype=torch.bfloat16, wide=wide)
        for mine, theirs in zip(half.inputs, exact.inputs, strict=True):
            mine.data.copy_(theirs.data)
        for name, tensor in exact.base.named_parameters():
            half.base.get_parameter(name).data.copy_(tensor)
        half.dy.copy_(exact.dy)
        truth, ours = exact.composed(nn.Identity()), half.fused(nn.Identity())
        in_bf16 = copy.deepcopy(half)
        for tensor in in_bf16.inputs:
            tensor.data = tensor.data.bfloat16()
        composed = in_bf16.composed(nn.Identity())
        for mine, peft, right in zip(ours, composed, truth, strict=True):
            error, allowed = ((found.double() - right).norm() for found in (mine, peft))
            assert error <= 1.3 * allowed


def test_under_autocast_it_computes_as_autocast_does():
    layer = Layer(("exp", "rms"), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, composed = layer.fused(nn.Identity()), layer.composed(nn.Identity())
    assert [t.dtype for t in ours] == [t.dtype for t in composed]
    for mine, other in zip(ours, composed, strict=True):
        assert (mine - other).norm() <= 0.02 * other.norm()


def test_recomputed_activations_see_the_same_mask():
    layer = Layer()
    run = partial(fused_linear, base_layer=layer.base, factors=layer.factors)
    torch.manual_seed(7)
    expected = layer.results(run(layer.x, dropout=nn.Dropout(0.4)))
    torch.manual_seed(7)
    again = layer.results(checkpoint(run, layer.x, dropout=nn.Dropout(0.4), use_reentrant=False))
    for mine, other in zip(again, expected, strict=True):
        assert torch.equal(mine, other)


def test_it_keeps_x_and_thin_products_only():
    layer, kept = Layer(("exp", "rms"), dtype=torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fused_linear(layer.x, layer.base, layer.factors, nn.Dropout(0.5))
    wide = [t for t in kept if t.numel() >= layer.x.numel()]
    assert {t.untyped_storage().data_ptr() for t in wide} <= {
        layer.x.untyped_storage().data_ptr(),
        layer.base.weight.untyped_storage().data_ptr(),
    }


@pytest.mark.parametrize(
    ("x", "adapter", "expected"),
    [
        (torch.float32, torch.float32, True),
        (torch.bfloat16, torch.float32, False),  # the base is in float32
        (torch.float32, torch.bfloat16, False),
        (torch.int64, torch.float32, False),
    ],
)
def test_it_is_used_for_inputs_in_the_layers_dtype(x, adapter, expected):
    base = nn.Linear(N, M).requires_grad_(False)
    assert can_fuse(torch.ones(2, N, dtype=x), base, adapter) is expected


def test_a_trained_layer_is_called_rather_than_differentiated_by_hand():
    layer = Layer(dtype=torch.float32)
    layer.base.weight.requires_grad_()
    fused_linear(layer.x, layer.base, layer.factors, nn.Identity()).sum().backward()
    assert layer.base.weight.grad.norm() > 0


def test_a_layer_with_an_output_in_another_dtype_keeps_it():
    layer = Layer(dtype=torch.float32)
    layer.base.register_forward_hook(lambda _, __, y: y.double())
    y = fused_linear(layer.x, layer.base, layer.factors, nn.Identity())
    expected = layer.base(layer.x) + composed_update(layer.x, layer.factors, nn.Identity())
    assert y.dtype is torch.float64
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora", {}),
        ("lora", {"bias": "lora_only"}),
        ("dora", {"norm": "factored"}),
        ("dora", {"norm": "factored", "bias": "lora_only"}),
        ("toplora", {}),
        ("tenslora", {}),
        ("genlora", {}),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_both_kernels_give_the_same_logits_and_gradients(name, changes, kind):
    found = []
    for kernel in ("fused", "peft"):
        settings = adapter_defaults(name)[0] | {"dropout": 0.0, "dtype": "auto"} | changes
        base = MODELS[kind]().double()
        model = attach_adapter(base, settings | {"kernel": kernel}, seed=0).double().eval()
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() == 1 or not parameter.abs().sum():  # biases and magnitudes, too
                parameter.data.add_(torch.randn(parameter.shape, generator=generator) / 10)
        trained = [p for p in model.parameters() if p.requires_grad]
        out = model(input_ids=torch.arange(12).view(2, 6)).logits
        gradients = torch.autograd.grad(out.square().sum(), trained, allow_unused=True)
        found.append([out, *(g for g in gradients if g is not None)])
    for ours, composed in zip(*found, strict=True):
        torch.testing.assert_close(ours, composed, rtol=1e-9, atol=1e-9)
