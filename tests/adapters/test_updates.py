import copy
import math

import pytest
import torch
from peft import IA3Config, LoHaConfig, OFTConfig, PeftModel, VeraConfig, get_peft_model

from tests.adapters.test_contract import ADAPTERS
from tests.adapters.test_contract_variants import on
from toplora_train.adapters.updates import (
    MOST_VALUES,
    adapted_layers,
    compare_updates,
    decompose,
    describe_update,
    place_of,
    principal_angles,
    thin_factors,
    whole_update,
)
from toplora_train.contract.subject import shaken
from toplora_train.models.tiny import tiny_model

OF_PEFT = {
    "vera": VeraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    "loha": LoHaConfig(r=3, target_modules=["q_proj", "v_proj"]),
    "ia3": IA3Config(target_modules=["v_proj"], feedforward_modules=[]),
    "oft": OFTConfig(oft_block_size=8, target_modules=["q_proj"]),
}
EVERY = [*ADAPTERS, "dora-factored_norm", "toplora-ungated", "tenslora-att_cp", *OF_PEFT]


def adapted(name: str) -> PeftModel:
    if name in OF_PEFT:
        return shaken(get_peft_model(tiny_model(), copy.deepcopy(OF_PEFT[name])))
    return shaken(on("llama", name))


def materialised(model: PeftModel) -> dict[str, torch.Tensor]:
    """The updates as the change of the weights that PEFT's merging makes, in double precision."""
    before = {
        name: layer.get_base_layer().weight.double().clone()
        for name, layer in adapted_layers(model).items()
    }
    merged = copy.deepcopy(model).double().merge_and_unload()
    return {name: merged.get_submodule(name).weight - old for name, old in before.items()}


def mean_gates(model: PeftModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.rand(8, generator=generator) * 3 for name in adapted_layers(model)}


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_singular_values_equal_the_svd_of_the_materialised_update(name: str):
    model = adapted(name)
    gates = mean_gates(model) if name == "toplora" else {}
    if gates:
        expected = {
            path: (layer.toplora_B["default"] * gates[path]) @ layer.toplora_A["default"] * 2
            for path, layer in adapted_layers(model).items()
        }
    else:
        expected = materialised(model)
    assert expected
    for path, layer in adapted_layers(model).items():
        found = describe_update(layer, "default", gates.get(path))
        singular = torch.linalg.svdvals(expected[path].double())
        kept = found["singular_values"]
        assert kept[0] > 1e-3
        padded = torch.zeros(len(singular)).double()
        padded[: len(kept)] = torch.tensor(kept)
        torch.testing.assert_close(padded[:MOST_VALUES], singular[:MOST_VALUES], atol=1e-5, rtol=0)
        norm = float(expected[path].norm())
        assert found["norm"] == pytest.approx(norm, rel=1e-5)
        weight = float(layer.get_base_layer().weight.norm())
        assert found["relative_norm"] == pytest.approx(norm / weight, rel=1e-5)
        shares = singular[singular > 1e-9 * singular[0]] / singular.sum()
        entropy = -(shares * shares.log()).sum()
        assert found["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-4)


@pytest.mark.parametrize("name", ["lora", "genlora", "tenslora", "toplora-ungated"])
@torch.no_grad()
def test_thin_factors_and_the_whole_update_are_the_same_matrix(name: str):
    layer = next(iter(adapted_layers(adapted(name)).values()))
    A, B = thin_factors(layer, "default")
    torch.testing.assert_close(B @ A, whole_update(layer), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_large_update_is_not_decomposed_unless_wanted():
    layer = next(iter(adapted_layers(adapted("dora")).values()))
    found = describe_update(layer, "default", whole=False)
    assert found["singular_values"] is found["effective_rank"] is None
    assert found["norm"] == pytest.approx(describe_update(layer, "default")["norm"], rel=1e-6)


@torch.no_grad()
def test_dora_is_a_change_of_length_and_a_change_of_direction():
    model = on("llama", "dora").eval()
    layer = next(iter(adapted_layers(model).values()))
    magnitude = layer.lora_magnitude_vector["default"].weight
    still = describe_update(layer, "default")
    assert (still["magnitude"], still["direction"]) == pytest.approx((0, 0), abs=1e-6)
    magnitude.mul_(1.25)  # B is zero, so no direction changes
    longer = describe_update(layer, "default")
    assert (longer["magnitude"], longer["direction"]) == pytest.approx((0.25, 0), abs=1e-6)
    moved = shaken(model)
    update = materialised(moved)
    for path, layer in adapted_layers(moved).items():
        old = layer.get_base_layer().weight.double()
        rows = zip(old, old + update[path], strict=True)
        cosines = [float(a @ b / a.norm() / b.norm()) for a, b in rows]
        expected = 1 - sum(cosines) / len(cosines)
        assert describe_update(layer, "default")["direction"] == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_principal_angles_between_two_adapters_equal_those_of_their_materialised_updates():
    scipy = pytest.importorskip("scipy.linalg")
    one, other = adapted("lora"), shaken(on("llama", "genlora"), seed=7)
    dense = [materialised(model) for model in (one, other)]
    thin = [
        {
            name: decompose(thin_factors(layer, "default"))
            for name, layer in adapted_layers(model).items()
        }
        for model in (one, other)
    ]
    compared = compare_updates(*thin)
    assert [row["module"] for row in compared] == list(dense[0])
    for row in compared:
        first, second = (updates[row["module"]] for updates in dense)
        for key, (a, b) in {"outputs": (first, second), "inputs": (first.T, second.T)}.items():
            bases = [scipy.orth(matrix.numpy(), rcond=1e-9) for matrix in (a, b)]
            expected = torch.tensor(scipy.subspace_angles(*bases)).rad2deg().flip(0)
            torch.testing.assert_close(torch.tensor(row[key]).double(), expected, atol=1e-5, rtol=0)
        cosines = torch.tensor(row["outputs"]).deg2rad().cos()
        assert row["overlap"] == pytest.approx(float(cosines.square().mean()), rel=1e-5)


def test_small_angles_are_resolved_and_a_subspace_has_none_with_itself():
    plane = torch.eye(5).double()[:, :2]
    turned = plane.clone()
    angle = 1e-7
    turned[:, 1] = math.cos(angle) * plane[:, 1] + math.sin(angle) * torch.eye(5)[2]
    assert principal_angles(plane, plane).tolist() == [0, 0]
    found = principal_angles(plane, turned).tolist()
    assert found == pytest.approx([0, math.degrees(angle)], rel=1e-6, abs=1e-12)
    assert principal_angles(plane, torch.eye(5).double()[:, 3:]).tolist() == [90, 90]


@torch.no_grad()
def test_an_adapter_that_did_nothing_has_no_update_and_nothing_to_compare():
    model = on("llama", "lora")
    layers = adapted_layers(model)
    found = describe_update(next(iter(layers.values())), "default")
    assert (found["norm"], found["effective_rank"], found["singular_values"]) == (0, 0, [])
    nothing = {name: decompose(thin_factors(one, "default")) for name, one in layers.items()}
    assert compare_updates(nothing, nothing) == []


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.self_attn.q_proj", (3, "model.layers.*.self_attn.q_proj")),
        ("encoder.block.11.layer.0.q", (11, "encoder.block.*.layer.0.q")),
        ("0.linear", (0, "*.linear")),
        ("score", (0, "score")),
    ],
)
def test_a_modules_layer_is_the_first_number_in_its_name(name: str, place: tuple[int, str]):
    assert place_of(name) == place
