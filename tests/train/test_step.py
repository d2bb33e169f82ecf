import weakref

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    Qwen2Config,
)

from toplora_train.data.batches import collate
from toplora_train.data.encode import Example
from toplora_train.models.tiny import tiny_model
from toplora_train.train.optimizer import build_optimizer
from toplora_train.train.step import (
    MicroBatch,
    StepResult,
    forward_backward,
    supervised_loss,
    update,
)

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


def train_step(model, optimizer, micro, *, max_grad_norm: float, **settings) -> StepResult:
    share = forward_backward(model, optimizer, micro, **settings)
    return update(
        optimizer,
        share,
        max_grad_norm=max_grad_norm,
        accelerator=settings["accelerator"],
    )


def adamw(model, lr=1e-2):
    return build_optimizer(model, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


def test_the_loss_is_the_negative_log_likelihood_of_the_answers():
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


SHAPE = dict(
    vocab_size=260,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    pad_token_id=0,
)
SHAPES = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "gemma": GemmaConfig(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, final_logit_softcapping=0.5, attn_implementation="eager"),
    "cohere": CohereConfig(**SHAPE, logit_scale=0.3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_supervised_loss_is_the_full_loss_in_every_family(name: str):
    """Soft-capping and logit scaling happen after the head and must be kept."""
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(SHAPES[name])
    batch = collate(examples(), 0)

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    ours = supervised_loss(model, batch, CPU)
    our_gradients = gradients(ours)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    full = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
    )
    assert ours.item() == pytest.approx(full.item(), rel=1e-6)
    for key, gradient in gradients(full).items():
        torch.testing.assert_close(our_gradients[key], gradient, rtol=1e-5, atol=1e-5, msg=key)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live storages, on a device that allocates none."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self.seen:
                    self.seen.add(storage)
                    size = storage.nbytes()
                    self.live += size
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._freed, size)
        return made

    def _freed(self, size: int) -> None:
        self.live -= size


def test_a_large_vocabulary_costs_memory_on_supervised_positions_only():
    """16 rows of 256 tokens, a tenth supervised, a vocabulary of 128k; counted, not allocated."""
    torch.manual_seed(1)
    rows = [Example(tuple(torch.randint(2, 99, (256,)).tolist()), 230) for _ in range(16)]
    batch = collate(rows, 0)
    config = LlamaConfig(**SHAPE | {"vocab_size": 128_000, "max_position_embeddings": 256})
    meta = torch.device("meta")
    with meta:
        # Eager, as other implementations read the mask's values, which do not exist here.
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)

    def full(model, batch, device):
        inputs = {k: batch[k].to(device) for k in ("input_ids", "attention_mask")}
        logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        return functional.cross_entropy(
            logits, batch["labels"][:, 1:].flatten().to(device), reduction="sum"
        )

    peaks = {}
    for loss in (supervised_loss, full):
        with LiveBytes() as counted:
            loss(model, batch, meta).backward()
        peaks[loss] = counted.peak
        model.zero_grad()
    assert peaks[full] > 16 * 255 * 128_000 * 4
    assert peaks[supervised_loss] < peaks[full] / 3


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 8])
def test_the_step_does_not_depend_on_the_micro_batch_size(micro_batch_size: int):
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
    torch.testing.assert_close(cut.loss, whole.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(cut.grad_norm, whole.grad_norm, rtol=1e-5, atol=0)
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
        norms[limit] = float(result.grad_norm)
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        largest[limit] = torch.cat(grads).norm().item()
    assert norms[0.0] == pytest.approx(norms[1e-3])
    assert largest[0.0] == pytest.approx(norms[0.0])
    assert largest[1e-3] == pytest.approx(1e-3, rel=1e-3)
