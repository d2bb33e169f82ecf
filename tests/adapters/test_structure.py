import pytest
import torch

from tests.adapters.test_contract_variants import on
from toplora_train.adapters.structure import (
    POINTS,
    basis_functions,
    core_energies,
    described_functions,
    mode_names,
    mode_similarities,
    tensors_of,
)
from toplora_train.adapters.tenslora import CONSTRUCTIONS
from toplora_train.adapters.updates import adapted_layers
from toplora_train.contract.subject import shaken


def tensors(variant: str):
    return tensors_of(shaken(on("llama", variant)))


def similarities(variant: str):
    model = shaken(on("llama", variant))
    return mode_similarities(tensors_of(model), mode_names(model))


def materialised(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    core = parts["core"]
    for place, factor in enumerate(factor for mode, factor in parts.items() if mode != "core"):
        core = torch.tensordot(factor, core, dims=([1], [place])).movedim(0, place)
    return core


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_core_energies_are_those_of_the_materialised_tensors_unfoldings(construction: str):
    found = tensors(f"tenslora-{construction}_tucker")
    energies = {(one["tensor"], one["mode"]): one["energy"] for one in core_energies(found)}
    label, parts = next(iter(found.items()))
    whole = materialised(parts)
    modes = [mode for mode in parts if mode != "core"]
    assert whole.dim() == len(modes)
    for place, mode in enumerate(modes):
        singular = torch.linalg.svdvals(whole.movedim(place, 0).flatten(1))
        shares = singular.square() / singular.square().sum()
        own = torch.tensor(energies[label, mode]).double()
        kept = min(len(own), len(shares))
        torch.testing.assert_close(own[:kept], shares[:kept], atol=1e-6, rtol=1e-5)
        assert float(own.sum()) == pytest.approx(1)


def test_a_cp_tensors_energy_is_that_of_its_components():
    found = tensors("tenslora-qkv_depth_cp")
    (one,) = core_energies(found)
    (parts,) = found.values()
    factors = list(parts.values())
    squares = [
        float(torch.einsum("i,j,k,l->ijkl", *(factor[:, r] for factor in factors)).square().sum())
        for r in range(3)
    ]
    assert one["mode"] == "component"
    assert one["energy"] == pytest.approx(sorted((s / sum(squares) for s in squares), reverse=True))


def test_an_untrained_core_has_no_energy():
    assert {sum(one["energy"]) for one in core_energies(tensors_of(on("llama", "tenslora")))} == {0}


def test_layers_and_projections_of_one_tensor_are_compared_by_their_rows():
    found = tensors("tenslora-qkv_depth_tucker")
    projections, layers = similarities("tenslora-qkv_depth_tucker")
    assert (projections["names"], layers["names"]) == (["q_proj", "k_proj", "v_proj"], ["0", "1"])
    assert projections["title"] == "cosine of the projections' factors"
    assert (len(projections["values"]), len(layers["values"])) == (3, 2)
    (parts,) = found.values()
    a, b = parts["layer"]
    assert layers["values"][0][1] == pytest.approx(float(a @ b / a.norm() / b.norm()))
    assert [layers["values"][i][i] for i in range(2)] == pytest.approx([1, 1])


def test_separate_tensors_are_compared_by_the_spaces_that_they_read():
    found = tensors("tenslora-att_tucker")
    (overlap,) = similarities("tenslora-att_tucker")
    assert overlap["names"] == list(found)
    assert len(found) == 6
    factors = [parts["input"] for parts in found.values()]
    for i, first in enumerate(factors):
        projector = first @ torch.linalg.pinv(first)
        for j, second in enumerate(factors):
            other = second @ torch.linalg.pinv(second)
            expected = float((projector @ other).trace()) / 3
            assert overlap["values"][i][j] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("variant", ["genlora", "genlora-fixed_grid", "genlora-silu_base"])
@torch.no_grad()
def test_the_functions_give_the_matrix_at_its_latent_coordinates(variant: str):
    """Interpolation is exact where a coordinate is one of the points."""
    layers = adapted_layers(shaken(on("llama", variant)))
    layer = next(iter(layers.values()))
    found = basis_functions(layer, "default")
    width = layer.in_features // layer.configs["default"].num_groups
    points = found["A"]["latent"]
    assert len(points) == POINTS and points == sorted(points)
    before = torch.tensor(found["A"]["functions"])
    layer.genlora_z_A["default"][:width] = torch.tensor(points[3 : 3 + width])
    A, _ = layer.lora_factors("default")
    torch.testing.assert_close(A[:, :width], before[:, 3 : 3 + width], atol=1e-5, rtol=1e-5)


def test_of_many_layers_some_are_described_from_the_first_to_the_last():
    layers = adapted_layers(on("llama", "genlora"))
    names = list(layers)
    chosen = described_functions(layers, "default", most=3)
    assert list(chosen) == [names[0], names[2], names[5]]
    assert described_functions(layers, "default", most=9).keys() == layers.keys()
    assert described_functions(adapted_layers(on("llama", "lora")), "default", most=9) == {}
