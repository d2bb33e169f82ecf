from itertools import product

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tests.train.test_step import CPU, examples, lora_model
from toplora_train.config.errors import UserError
from toplora_train.data.batches import collate
from toplora_train.models.compiled import compiled_layers
from toplora_train.models.layers import repeated_layers
from toplora_train.train.proofs import prove_layers
from toplora_train.train.step import supervised_loss

# Torch's own warnings while tracing.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def prove(model, backend) -> None:
    prove_layers(
        model,
        collate(examples(), 0),
        settings="trainer.compile=inductor",
        off="trainer.compile=null",
        changed=compiled_layers(model, backend),
        loss=supervised_loss,
        accelerator=Accelerator(cpu=True),
    )


def test_compiled_layers_keep_loss_and_names_without_recompiling_for_new_lengths():
    model = lora_model().train()
    names = list(model.state_dict())
    seen = []

    def backend(graph, _inputs):
        seen.append(graph)
        return graph.forward

    batches = [collate(examples()[first:], 0) for first in (0, 3, 5)]
    plain = [supervised_loss(model, batch, CPU).item() for batch in batches]
    torch._dynamo.reset()
    with compiled_layers(model, backend):
        first = supervised_loss(model, batches[0], CPU).item()
        graphs = len(seen)
        others = [supervised_loss(model, batch, CPU).item() for batch in batches[1:]]
        assert list(model.state_dict()) == names
    assert 0 < graphs == len(seen)
    assert [first, *others] == pytest.approx(plain, rel=1e-6)
    assert all("forward" not in vars(layer) for layer in repeated_layers(model))


class Layer(nn.Linear):
    def forward(self, inputs, mask=None):
        outputs = super().forward(inputs) * (2 if self.training else 1)
        return outputs if mask is None else outputs * mask


def test_a_layer_stays_compiled_in_every_state_that_a_run_meets():
    model = nn.Sequential(Layer(2, 2))
    model._no_split_modules = ["Layer"]
    torch._dynamo.reset()
    strict = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
    with strict, compiled_layers(model, "eager"):
        for state in product((True, False), (True, False), (True, False), (None, torch.ones(3, 2))):
            training, gradient, from_below, mask = state
            model.train(training)
            with torch.set_grad_enabled(gradient):
                outputs = model[0](torch.ones(3, 2, requires_grad=from_below), mask)
            assert outputs.requires_grad == gradient


def test_no_backend_changes_nothing():
    model = lora_model()
    with compiled_layers(model, None):
        assert all("forward" not in vars(layer) for layer in repeated_layers(model))


def test_a_compiler_that_changes_the_result_is_refused():
    def wrong(graph, _inputs):
        return lambda *inputs: tuple(out * 1.01 for out in graph.forward(*inputs))

    torch._dynamo.reset()
    with pytest.raises(UserError, match=r"trainer\.compile=inductor changes this model"):
        prove(lora_model(), wrong)


def test_a_missing_compiler_is_one_clear_error():
    def missing(_graph, _inputs):
        raise RuntimeError("no working C++ compiler")

    torch._dynamo.reset()
    with pytest.raises(UserError, match=r"cannot be computed so here .*C\+\+ compiler.*=null"):
        prove(lora_model(), missing)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inductors_code_has_the_same_loss_and_gradients():
    torch._dynamo.reset()
    prove(lora_model(), "inductor")
