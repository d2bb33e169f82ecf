import torch

from toplora_train.models.tiny import tiny_config, tiny_model, tiny_tokenizer


def test_the_byte_tokenizer_round_trips_any_text():
    text = "naïve\n  ### Response:\n12 + 7 = 19 ✓"
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_pad_is_not_eos_and_all_ids_fit_the_model():
    tokenizer = tiny_tokenizer()
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == tiny_config().vocab_size
    assert max(tokenizer(bytes(range(128)).decode())["input_ids"]) < tiny_config().vocab_size


def test_the_tiny_model_is_deterministic_and_preserves_the_rng_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = tiny_model(), tiny_model()
    assert torch.equal(torch.rand(3), expected)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_query_and_key_projections_differ_in_width():
    attention = tiny_model().model.layers[0].self_attn
    assert attention.q_proj.out_features == 2 * attention.k_proj.out_features
