"""A module's tensor and indices, from its name and shape."""

import pytest

from toplora_train.adapters.tenslora_constructions import (
    CONSTRUCTIONS,
    Features,
    Heads,
    modes,
    slots,
)

HEADS = Heads(number=4, size=16)
SQUARE = Features(64, 64)
GROUPED = Features(64, 32)  # two key/value heads


def llama(layers: int = 3, **others: Features) -> dict[str, Features]:
    """The attention projections of a decoder with grouped-query attention, and others."""
    shapes = {"q_proj": SQUARE, "k_proj": GROUPED, "v_proj": GROUPED} | others
    return {
        f"model.layers.{layer}.{'mlp' if 'up' in name else 'self_attn'}.{name}": shape
        for layer in range(layers)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("construction", "names", "tensors"),
    [
        ("att", "input coordinate head", 9),
        ("qkv", "input output projection", 3),
        ("depth", "input output layer", 3),
        ("att_qkv", "input coordinate head projection", 3),
        ("att_depth", "input coordinate head layer", 3),
        ("qkv_depth", "input output projection layer", 1),
        ("att_qkv_depth", "input coordinate head projection layer", 1),
    ],
)
def test_a_construction_has_the_papers_modes_and_number_of_tensors(
    construction: str, names: str, tensors: int
):
    assert construction in CONSTRUCTIONS
    assert modes(construction) == tuple(names.split())
    found = slots(llama(), construction, HEADS)
    assert len({slot.tensor for slot in found.values()}) == tensors
    sizes = {"input": 64, "output": 64, "coordinate": 16, "head": 4, "projection": 3, "layer": 3}
    for slot in found.values():
        assert slot.sizes == tuple(sizes[mode] for mode in names.split())


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_no_two_modules_have_the_same_slot(construction: str):
    places = [(slot.tensor, slot.rows) for slot in slots(llama(), construction, HEADS).values()]
    assert len(set(places)) == len(places) == 9


def test_a_slot_follows_from_layer_and_projection():
    found = slots(llama(), "qkv_depth", HEADS)
    assert found["model.layers.2.self_attn.v_proj"].rows == (2, 2)
    found = slots(llama(), "att", HEADS)
    assert found["model.layers.2.self_attn.v_proj"].tensor == "v_proj_2"
    found = slots(llama(), "att_qkv", HEADS)
    assert found["model.layers.2.self_attn.k_proj"].tensor == "2"
    assert found["model.layers.2.self_attn.k_proj"].rows == (1,)
    found = slots(llama(), "depth", HEADS)
    assert found["model.layers.2.self_attn.k_proj"].tensor == "k_proj"
    assert found["model.layers.2.self_attn.k_proj"].rows == (2,)


@pytest.mark.parametrize(
    "names",
    [
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    ],
)
def test_query_key_and_value_come_first_whatever_the_models_order(names):
    q, k, v = names
    targets = {f"layer.0.{name}": SQUARE for name in (v, "attn.o_proj", k, q)}
    rows = {name: slot.rows for name, slot in slots(targets, "qkv", HEADS).items()}
    assert [rows[f"layer.0.{name}"] for name in (q, k, v, "attn.o_proj")] == [
        (0,),
        (1,),
        (2,),
        (3,),
    ]


def test_grouped_heads_share_the_width_of_the_query():
    for construction in CONSTRUCTIONS:
        found = slots(llama(1), construction, HEADS)
        repeats = [slot.repeats for slot in found.values()]
        assert repeats == [1, 2, 2]
        assert found["model.layers.0.self_attn.k_proj"].head_size == 16


def test_head_sizes_need_not_sum_to_the_hidden_size():
    wide = {
        "layers.0.q_proj": Features(24, 64),
        "layers.0.k_proj": Features(24, 16),
        "layers.0.v_proj": Features(24, 16),
    }
    found = slots(wide, "att_qkv", HEADS)
    assert {slot.sizes for slot in found.values()} == {(24, 16, 4, 3)}
    assert found["layers.0.v_proj"].repeats == 4


def test_a_subset_of_layers_is_numbered_from_zero():
    chosen = {name: shape for name, shape in llama().items() if ".1." not in name}
    found = slots(chosen, "depth", HEADS)
    assert found["model.layers.2.self_attn.q_proj"].rows == (1,)
    assert found["model.layers.2.self_attn.q_proj"].sizes[-1] == 2


def test_other_projections_have_tensors_of_their_own_shape_in_depth():
    found = slots(llama(up_proj=Features(64, 128), o_proj=SQUARE), "depth", HEADS)
    assert found["model.layers.0.mlp.up_proj"].sizes == (64, 128, 3)
    assert found["model.layers.0.mlp.up_proj"].repeats == 1


def test_another_projection_of_the_same_shape_shares_the_tensor():
    found = slots(llama(o_proj=SQUARE), "qkv_depth", HEADS)
    assert found["model.layers.1.self_attn.o_proj"].rows == (3, 1)
    assert found["model.layers.1.self_attn.o_proj"].sizes == (64, 64, 4, 3)


def test_an_encoder_and_a_decoder_share_the_layer_mode():
    targets = {
        f"{stack}.layers.{layer}.self_attn.{name}": SQUARE
        for stack in ("encoder", "decoder")
        for layer in range(2)
        for name in ("q_proj", "k_proj", "v_proj")
    }
    found = slots(targets, "qkv_depth", HEADS)
    assert found["decoder.layers.1.self_attn.k_proj"].rows == (1, 3)


def test_every_attention_counts_as_a_layer():
    targets = {
        f"decoder.layers.{layer}.{attention}.{name}": SQUARE
        for layer in range(2)
        for attention in ("self_attn", "encoder_attn")
        for name in ("q_proj", "k_proj", "v_proj")
    }
    found = slots(targets, "qkv_depth", HEADS)
    assert found["decoder.layers.1.encoder_attn.k_proj"].rows == (1, 3)


def test_projections_with_the_same_name_are_distinguished():
    targets = {
        f"layer.{layer}.{name}": SQUARE
        for layer in range(2)
        for name in ("attention.self.query", "attention.output.dense", "output.dense")
    }
    tensors = {slot.tensor for slot in slots(targets, "depth", HEADS).values()}
    assert tensors == {"query", "attention_output_dense", "output_dense"}
    assert slots(targets, "qkv_depth", HEADS)["layer.1.output.dense"].rows == (2, 1)


@pytest.mark.parametrize(
    ("targets", "construction", "heads", "message"),
    [
        (
            {"h.0.attn.c_attn": Features(32, 96)},
            "qkv_depth",
            HEADS,
            r"construction 'qkv_depth' needs query, key and value as separate linear layers, but "
            r"h\.0\.attn\.c_attn fuses all three; use construction=depth",
        ),
        (
            {"h.0.attn.query_key_value": Features(32, 96)},
            "att",
            HEADS,
            r"construction 'att' needs query, key and value as separate",
        ),
        (
            llama(up_proj=Features(64, 128)),
            "qkv_depth",
            HEADS,
            r"construction 'qkv_depth' needs modules of the same shape in a tensor, but "
            r"model\.layers\.0\.mlp\.up_proj is 64 -> 128 and model\.layers\.0\.self_attn\.q_proj "
            r"is 64 -> 64; .* or use construction=depth$",
        ),
        (
            {"layers.0.q": SQUARE, "layers.1.q": Features(64, 48)},
            "depth",
            HEADS,
            r"construction 'depth' needs modules of the same shape .* layers\.1\.q is 64 -> 48 .*"
            r"exclude_modules$",
        ),
        (
            {
                name: shape
                for name, shape in llama().items()
                if name != "model.layers.1.self_attn.k_proj"
            },
            "att_qkv",
            HEADS,
            r"construction 'att_qkv' needs the same target modules in every layer, but "
            r"model\.layers\.1\.self_attn has no k_proj; .* use construction=att,",
        ),
        (
            llama(),
            "att_qkv",
            None,
            r"construction 'att_qkv' has a mode for attention heads, but the model's config has no "
            r"num_attention_heads; use construction=qkv$",
        ),
        (llama(), "att", None, r"construction 'att' .*; use construction=depth$"),
        (
            llama(up_proj=Features(64, 126)),
            "att_depth",
            HEADS,
            r"construction 'att_depth' splits outputs into 4 heads, which does not divide "
            r"the 126 outputs of model\.layers\.0\.mlp\.up_proj",
        ),
        (
            llama(k_proj=Features(64, 48)),
            "depth",
            HEADS,
            r"target_modules matches model\.layers\.0\.self_attn\.k_proj, whose 48 outputs "
            r"are not key/value heads of 16 that 4 query heads could share evenly",
        ),
        (llama(k_proj=Features(64, 24)), "depth", HEADS, r"target_modules matches .* 24 outputs"),
    ],
)
def test_unsuitable_modules_are_refused_by_name_with_the_remedy(
    targets: dict[str, Features], construction: str, heads: Heads | None, message: str
):
    with pytest.raises(ValueError, match=f"^{message}"):
        slots(targets, construction, heads)


def test_without_heads_grouped_projections_have_tensors_of_their_own():
    found = slots(llama(), "depth", None)
    assert found["model.layers.0.self_attn.k_proj"].sizes == (64, 32, 3)
    with pytest.raises(ValueError, match="needs modules of the same shape"):
        slots(llama(), "qkv", None)
