import torch

from tests.train.test_step import CPU, examples, lora_model
from toplora_train.data.batches import collate
from toplora_train.train.logits import logits_only_at
from toplora_train.train.step import supervised_loss


def test_the_model_computes_logits_on_supervised_positions_only():
    model, batch = lora_model(), collate(examples(), 0)
    seen = []
    model.get_base_model().lm_head.register_forward_hook(
        lambda _module, _inputs, output: seen.append(tuple(output.shape[:2]))
    )
    supervised_loss(model, batch, CPU)
    assert seen == [(1, int((batch["labels"][:, 1:] != -100).sum()))]
    with torch.no_grad():  # all positions again afterwards
        assert model(batch["input_ids"]).logits.shape[:2] == batch["input_ids"].shape


def test_logits_follow_the_order_of_the_positions():
    model, ids = lora_model().eval(), collate(examples(2), 0)["input_ids"]
    rows, positions = torch.tensor([1, 0, 1]), torch.tensor([3, 2, 0])
    with torch.no_grad():
        whole = model(ids).logits
        with logits_only_at(model, rows, positions):
            some = model(ids).logits
    torch.testing.assert_close(some[0], whole[rows, positions], rtol=1e-6, atol=1e-6)
