import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model

from toplora_train.data.batches import collate
from toplora_train.data.encode import Example
from toplora_train.models.tiny import tiny_model
from toplora_train.train.optimizer import build_optimizer
from toplora_train.train.step import MicroBatch, accepts_logits_to_keep, supervised_loss, train_step

CPU = torch.device("cpu")


def examples(count: int = 8) -> list[Example]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for index in range(count):
        length = 12 + 3 * index
        ids = torch.randint(2, 258, (length,), generator=generator).tolist()
        made.append(Example(tuple(ids), length - 3 - index % 4))
    return made


def lora_model() -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    return model


def adamw(model, lr=1e-2):
    return build_optimizer(
        model, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, device_type="cpu"
    )


def test_the_loss_is_the_summed_log_probability_of_the_answers():
    model, batch = lora_model().double(), collate(examples(), 0)
    with torch.no_grad():
        loss = supervised_loss(model, batch, CPU)
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    log_p = logits.double().log_softmax(-1)
    expected = 0.0
    for row, example in enumerate(examples()):
        for position in range(example.prompt_length, len(example.input_ids)):
            expected -= log_p[row, position - 1, example.input_ids[position]].item()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_padding_changes_nothing():
    model, rows = lora_model(), examples()
    with torch.no_grad():
        together = supervised_loss(model, collate(rows, 0), CPU)
        apart = sum(supervised_loss(model, collate([row], 0), CPU) for row in rows)
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-5)


def test_the_model_computes_logits_on_supervised_positions_only():
    model, batch = lora_model(), collate(examples(), 0)
    widths = []
    model.get_base_model().lm_head.register_forward_hook(
        lambda _module, inputs, _output: widths.append(inputs[0].shape[1])
    )
    supervised_loss(model, batch, CPU)
    supervised = (batch["labels"][:, 1:] != -100).any(dim=0).sum()
    assert widths == [supervised]
    assert supervised < batch["input_ids"].shape[1]
    assert accepts_logits_to_keep(model)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 8])
def test_micro_batches_of_any_size_take_the_same_step(micro_batch_size: int):
    def stepped(size: int):
        model, rows = lora_model(), examples()
        micro = [MicroBatch(collate(rows[i : i + size], 0)) for i in range(0, len(rows), size)]
        supervised = sum(len(row.input_ids) - row.prompt_length for row in rows)
        accelerator = Accelerator(cpu=True)
        result = train_step(
            model,
            adamw(model),
            micro,
            loss=supervised_loss,
            supervised_tokens=supervised,
            max_grad_norm=1.0,
            accelerator=accelerator,
        )
        return result, [p.grad for p in model.parameters() if p.requires_grad]

    whole, gradients = stepped(8)
    cut, cut_gradients = stepped(micro_batch_size)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
    assert cut.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    for one, other in zip(cut_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_the_norm_is_measured_before_clipping_and_zero_means_no_clipping():
    rows = examples()
    supervised = sum(len(row.input_ids) - row.prompt_length for row in rows)
    norms, largest = {}, {}
    for limit in (0.0, 1e-3):
        model = lora_model()
        result = train_step(
            model,
            adamw(model),
            [MicroBatch(collate(rows, 0))],
            loss=supervised_loss,
            supervised_tokens=supervised,
            max_grad_norm=limit,
            accelerator=Accelerator(cpu=True),
        )
        norms[limit] = result.grad_norm
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        largest[limit] = torch.cat(grads).norm().item()
    assert norms[0.0] == pytest.approx(norms[1e-3])
    assert largest[0.0] == pytest.approx(norms[0.0])
    assert largest[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_no_number_does_not_reach_the_weights():
    model = lora_model()
    with torch.no_grad():
        model.get_base_model().lm_head.weight.fill_(float("nan"))
    before = [p.clone() for p in model.parameters() if p.requires_grad]
    result = train_step(
        model,
        adamw(model),
        [MicroBatch(collate(examples(), 0))],
        loss=supervised_loss,
        supervised_tokens=10,
        max_grad_norm=1.0,
        accelerator=Accelerator(cpu=True),
    )
    assert result.loss != result.loss
    after = [p for p in model.parameters() if p.requires_grad]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
