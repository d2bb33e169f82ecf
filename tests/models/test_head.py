from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    RobertaConfig,
)

from toplora_train.config.errors import UserError
from toplora_train.models.head import Head, head_modules
from toplora_train.models.load import load_model, start_of_head
from toplora_train.models.locate import ModelLocation

TINY = ModelLocation("toplora-train/tiny", None, "built in")
SMALL = dict(
    vocab_size=20,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
)


def stored(folder: Path, model) -> ModelLocation:
    model.save_pretrained(folder)
    return ModelLocation("owner/small", folder, "local folder")


def test_a_classification_head_has_the_class_names():
    model = load_model(TINY, dtype="float32", head=Head(("no", "yes"), 0))
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.problem_type == "single_label_classification"
    assert model.score.out_features == 2
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_head_without_classes_has_one_output():
    model = load_model(TINY, dtype="float32", head=Head((), 0))
    assert model.config.problem_type == "regression"
    assert model.score.out_features == 1


def test_the_encoder_is_the_base_models_and_the_head_depends_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_model(TINY, dtype="float32", head=Head(("a", "b"), 0), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = load_model(TINY, dtype="float32", head=Head(("a", "b"), 0), seed=3)
    other = load_model(TINY, dtype="float32", head=Head(("a", "b"), 0), seed=4)
    bare = load_model(TINY, dtype="float32")
    assert torch.equal(first.score.weight, again.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)
    for name, tensor in bare.model.state_dict().items():
        assert torch.equal(tensor, first.model.state_dict()[name])


def test_a_model_without_weights_has_the_same_shapes(tmp_path: Path):
    location = stored(tmp_path, BertModel(BertConfig(**SMALL)))
    head = Head(("a", "b", "c"), 0)
    whole, empty = (load_model(location, dtype="float32", head=head, meta=m) for m in (False, True))
    shapes = {name: tensor.shape for name, tensor in whole.state_dict().items()}
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == shapes
    assert {tensor.device.type for tensor in empty.parameters()} == {"meta"}


def test_the_head_is_everything_on_top_of_the_encoder(tmp_path: Path):
    bert = stored(tmp_path / "bert", BertModel(BertConfig(**SMALL)))
    deberta = stored(tmp_path / "deberta", DebertaV2Model(DebertaV2Config(**SMALL)))
    head = Head(("a", "b"), 0)
    assert head_modules(load_model(TINY, dtype="float32", head=head)) == ["score"]
    assert head_modules(load_model(bert, dtype="float32", head=head)) == ["classifier"]
    model = load_model(deberta, dtype="float32", attention="eager", head=head)
    assert head_modules(model) == ["pooler", "classifier"]


def test_an_unsupported_attention_is_one_clear_error_with_the_remedy(tmp_path: Path):
    deberta = stored(tmp_path, DebertaV2Model(DebertaV2Config(**SMALL)))
    with pytest.raises(
        UserError, match=r"^owner/small has no sdpa attention; set model\.attention"
    ):
        load_model(deberta, dtype="float32", head=Head(("a", "b"), 0))


def test_missing_weights_besides_the_head_are_refused_unless_trained(tmp_path: Path):
    location = stored(tmp_path, BertModel(BertConfig(**SMALL), add_pooling_layer=False))
    head = Head(("a", "b"), 0)
    with pytest.raises(UserError) as error:
        load_model(location, dtype="float32", head=head)
    assert str(error.value) == (
        "owner/small: its checkpoint has no weights for bert.pooler.dense, which would stay random;"
        " train the whole module: adapter.modules_to_save=[pooler]"
    )
    load_model(location, dtype="float32", head=head, trained_whole=["pooler"])


def test_an_encoder_is_refused_as_a_language_model(tmp_path: Path):
    location = stored(tmp_path, BertModel(BertConfig(**SMALL, is_decoder=True)))
    with pytest.raises(UserError, match=r"^owner/small: its checkpoint has no weights for cls"):
        load_model(location, dtype="float32")


def classifier(folder: Path, kind: str, labels: dict[int, str]) -> tuple[ModelLocation, nn.Module]:
    """A small random classifier, saved as another tool would."""
    config = {"bert": BertConfig, "roberta": RobertaConfig}[kind](**SMALL, id2label=labels)
    torch.manual_seed(7)
    model = AutoModelForSequenceClassification.from_config(config)
    return stored(folder, model), model.eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[3, 4, 5]])).logits[0]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_checkpoints_head_is_matched_by_class_names(tmp_path: Path, kind: str):
    location, own = classifier(tmp_path, kind, {0: "NEUTRAL", 1: "Not Entailed", 2: "ENTAILMENT"})
    head = Head(
        ("entailment", "not_entailed", "neutral"), 1
    )  # RoBERTa's position ids start after it
    model = load_model(location, dtype="float32", head=head)
    assert torch.equal(logits(model), logits(own)[[2, 1, 0]])
    assert "put in the task's order" in start_of_head(location, head).said


@pytest.mark.parametrize("labels", [{0: "LABEL_0", 1: "LABEL_1"}, {0: "No", 1: "yes"}])
def test_a_head_with_unnamed_classes_or_in_the_tasks_order_is_kept(tmp_path: Path, labels):
    location, own = classifier(tmp_path, "bert", labels)
    model = load_model(location, dtype="float32", head=Head(("no", "yes"), 0))
    assert torch.equal(logits(model), logits(own))
    assert start_of_head(location, Head(("no", "yes"), 0)).kept


def test_a_head_with_other_classes_is_refused_unless_new_head_is_set(tmp_path: Path):
    location, own = classifier(tmp_path, "bert", {0: "negative", 1: "positive"})
    head = Head(("no", "yes"), 0)
    with pytest.raises(UserError, match=r"classes negative, positive, .* are no, yes; .*new_head="):
        load_model(location, dtype="float32", head=head, meta=True)
    model = load_model(location, dtype="float32", head=head, new_head=True)
    assert not torch.equal(model.classifier.weight, own.classifier.weight)
    assert torch.equal(model.bert.pooler.dense.weight, own.bert.pooler.dense.weight)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("outputs", "labels", "description"),
    [
        (5, ("a", "b"), "has 5 outputs, the task needs 2 classes"),
        (2, (), "has 2 outputs, the task needs a number"),
        (1, ("a", "b"), "has 1 output, the task needs 2 classes"),
    ],
)
def test_a_head_of_another_size_is_replaced_and_described(
    tmp_path: Path, kind: str, outputs: int, labels: tuple[str, ...], description: str
):
    location, own = classifier(tmp_path, kind, {n: f"LABEL_{n}" for n in range(outputs)})
    head = Head(labels, 0)
    model, again, other = (
        load_model(location, dtype="float32", head=head, seed=seed) for seed in (3, 3, 4)
    )
    assert len(logits(model)) == max(1, len(labels))
    assert torch.equal(logits(model), logits(again))
    assert not torch.equal(logits(model), logits(other))
    encoder = own.base_model.state_dict()
    assert all(torch.equal(model.base_model.state_dict()[name], encoder[name]) for name in encoder)
    assert description in start_of_head(location, head).said


def test_a_config_with_a_head_that_the_weights_lack_is_refused(tmp_path: Path):
    location = stored(tmp_path, BertModel(BertConfig(**SMALL)))
    config = BertConfig.from_pretrained(tmp_path, architectures=["BertForSequenceClassification"])
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no weights for classifier; set model\.new_head=true"):
        load_model(location, dtype="float32", head=Head(("a", "b"), 0))
