from contextlib import contextmanager
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from tests.train.test_loop import start_training
from tests.train.test_step import CPU, SHAPES, adamw, examples, lora_model
from toplora_train.config.errors import Interrupted, UserError
from toplora_train.data.batches import collate, pack
from toplora_train.train.checkpoint import adapter_tensors
from toplora_train.train.proofs import prove_layers, prove_packing
from toplora_train.train.step import supervised_loss

padded = partial(collate, pad_token_id=0)


def prove(model, rows) -> None:
    prove_packing(
        model,
        rows,
        padded=padded,
        packed=pack,
        loss=supervised_loss,
        accelerator=Accelerator(cpu=True),
    )


def random_model(config, scale: float = 0.3):
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale)
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_packed_rows_have_the_loss_and_gradients_of_padded_ones_in_every_family(name: str):
    model, rows = random_model(SHAPES[name], scale=0.1), examples()
    prove(model, rows)
    found = []
    for batch in (padded(rows), pack(rows)):
        model.zero_grad()
        loss = supervised_loss(model, batch, CPU)
        loss.backward()
        found.append((loss.item(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    (one, expected), (other, gradients) = found
    assert other == pytest.approx(one, rel=1e-6)
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=260, hidden_size=32, n_layer=2, n_head=4),
        MambaConfig(
            vocab_size=260, hidden_size=32, num_hidden_layers=2, bos_token_id=1, eos_token_id=2
        ),
    ],
    ids=["distances in attention", "a state instead of attention"],
)
def test_a_model_that_mixes_packed_rows_is_refused_in_every_precision(config, dtype):
    with pytest.raises(UserError, match=r"use trainer\.batching=padded"):
        prove(random_model(config).to(dtype), examples(2))


@pytest.mark.parametrize("stops", [UserError("a line"), Interrupted(2)])
def test_a_compilers_error_of_any_kind_is_one_line_and_a_stop_stays_a_stop(stops):
    class KernelError(Exception):
        """As Triton's, which is no RuntimeError."""

    @contextmanager
    def failing(error: Exception):
        raise error
        yield

    def prove(error: Exception) -> None:
        prove_layers(
            lora_model(),
            collate(examples()[:2], 0),
            settings="trainer.liger=true",
            off="trainer.liger=false",
            changed=failing(error),
            loss=supervised_loss,
            accelerator=Accelerator(cpu=True),
        )

    with pytest.raises(UserError, match=r"true: .* so here \(shared memory\).*use trainer.liger=f"):
        prove(KernelError("\nshared memory"))
    with pytest.raises(type(stops)) as raised:
        prove(stops)
    assert raised.value is stops


def test_a_single_row_is_never_refused():
    prove(None, examples(1))


def test_padded_grouped_and_packed_take_the_same_steps(tmp_path):
    """All rows in one batch, so that their order does not matter."""
    runs = []
    for collates, grouped in ((padded, False), (padded, True), (pack, True)):
        model = lora_model()
        records = start_training(
            model,
            adamw(model),
            tmp_path / str(len(runs)),
            batch_size=8,
            micro_batch_size=4,
            total_steps=3,
            group_by_length=grouped,
            collate=collates,
            validation=examples(3),
            log_every=1,
        )
        losses = [(record.loss, record.validation_loss or 0.0) for record in records]
        runs.append((torch.tensor(losses), adapter_tensors(model)))
    (expected, tensors), *others = runs
    for losses, found in others:
        torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
        for key, tensor in tensors.items():
            torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-5, msg=key)
