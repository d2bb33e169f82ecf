import pytest
import torch
from torch.nn import functional

from toplora_train.data.labelled import LabelledExample, collate_labelled
from toplora_train.models.head import Head
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation
from toplora_train.train.losses import label_loss, value_loss

TINY = ModelLocation("toplora-train/tiny", None, "built in")
CPU = torch.device("cpu")


def examples(targets: list[int] | list[float]) -> list[LabelledExample]:
    return [
        LabelledExample(tuple(range(10, 13 + 2 * index)), None, target)
        for index, target in enumerate(targets)
    ]


def test_the_label_loss_is_transformers_mean_times_the_rows():
    model = load_model(TINY, dtype="float32", head=Head(("a", "b", "c"), 0))
    batch = collate_labelled(examples([0, 2, 1]), 0)
    oracle = model(**batch).loss * 3
    torch.testing.assert_close(label_loss(model, batch, CPU), oracle)


def test_the_value_loss_is_the_sum_of_squares():
    model = load_model(TINY, dtype="float32", head=Head((), 0))
    batch = collate_labelled(examples([0.5, 3.8, 5.0]), 0)
    oracle = functional.mse_loss(model(**batch).logits[:, 0], batch["labels"]) * 3
    torch.testing.assert_close(value_loss(model, batch, CPU), oracle)


@pytest.mark.parametrize(
    ("head", "loss", "targets"),
    [(Head(("a", "b"), 0), label_loss, [0, 1, 1]), (Head((), 0), value_loss, [1.0, 2.0, 3.5])],
)
def test_padding_changes_no_loss(head: Head, loss, targets):
    model = load_model(TINY, dtype="float32", head=head)
    rows = examples(targets)
    together = loss(model, collate_labelled(rows, 0), CPU)
    apart = sum(loss(model, collate_labelled([row], 0), CPU) for row in rows)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)
