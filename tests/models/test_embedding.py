from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from toplora_train.config.errors import UserError
from toplora_train.models.embedding import resized_modules, vocabulary_size
from toplora_train.models.head import Head
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_config, tiny_tokenizer

ROWS = tiny_config().vocab_size


def location(folder: Path, *, tied: bool) -> ModelLocation:
    config = tiny_config()
    config.tie_word_embeddings = tied
    LlamaForCausalLM(config).save_pretrained(folder)
    return ModelLocation(str(folder), folder, "local folder")


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_of_the_old_ones_which_stay(tmp_path: Path, tied: bool):
    saved = location(tmp_path, tied=tied)
    before = load_model(saved, dtype="float32")
    model = load_model(saved, dtype="float32", embedding_rows=ROWS + 3)
    assert resized_modules(before) == []
    assert resized_modules(model) == ["model.embed_tokens", "lm_head"]
    assert model.config.vocab_size == ROWS + 3
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    assert (embedding.weight is output.weight) == tied
    for layer, old in ((embedding, before.model.embed_tokens), (output, before.lm_head)):
        assert torch.equal(layer.weight[:ROWS], old.weight)
        mean = old.weight.double().mean(0).float()
        assert torch.equal(layer.weight[ROWS:], mean.expand(3, -1))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_without_weights_the_shapes_are_the_same(tmp_path: Path):
    saved = location(tmp_path, tied=True)
    whole, empty = (
        load_model(saved, dtype="float32", embedding_rows=ROWS + 3, meta=meta)
        for meta in (False, True)
    )
    assert whole.num_parameters() == empty.num_parameters()
    assert all(parameter.is_meta for parameter in empty.parameters())


def test_with_a_head_the_embedding_alone_gets_rows(tmp_path: Path):
    head = Head(("no", "yes"), 0)
    model = load_model(
        location(tmp_path, tied=True), dtype="float32", head=head, embedding_rows=ROWS + 3
    )
    assert resized_modules(model) == ["model.embed_tokens"]


def test_an_embedding_that_has_the_rows_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=rf"no token beyond the embedding's {ROWS} rows; leave"):
        load_model(location(tmp_path, tied=True), dtype="float32", embedding_rows=ROWS)


def test_a_tokenizer_needs_a_row_for_its_largest_id():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<new>"])
    assert vocabulary_size(tokenizer) == ROWS + 1
