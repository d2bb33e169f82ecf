from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run.conftest import tiny_run
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig, TaskSettings
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_tokenizer
from toplora_train.run.prepare.objective import find_objective, load_base
from toplora_train.run.prepare.parsing import row_parser
from toplora_train.train.losses import label_loss, value_loss
from toplora_train.train.step import supervised_loss

TINY = ModelLocation("toplora-train/tiny", None, "built in")


def ignore(_rows: int) -> None:
    """Ignore progress."""


def judged_run(**settings: Any) -> RunConfig:
    task = TaskSettings(
        name="t", source="rows.jsonl", **({"kind": "classify", "choices": ["no", "yes"]} | settings)
    )
    return replace(tiny_run(Path("run")), task={"t": task})


def test_a_language_model_trains_on_tokens_and_has_no_head():
    objective = find_objective(tiny_run(Path("run")), tiny_tokenizer())
    assert objective.head is None
    assert objective.loss is supervised_loss


def test_classification_trains_a_head_with_the_labels_names():
    objective = find_objective(judged_run(), tiny_tokenizer())
    assert objective.head is not None and objective.head.labels == ("no", "yes")
    assert objective.loss is label_loss
    row = objective.parse({"text": "ab", "label": 1}, place="row 1", default_id="1")
    encoded = objective.encoding.encode([row], ignore)
    assert objective.render(encoded.examples[0]) == [("a", False), ("b", False), ("yes", True)]
    assert encoded.prompt_mismatches == 0
    assert objective.collate(encoded.examples)["labels"].tolist() == [1]


def test_regression_trains_on_numbers():
    run = judged_run(kind="regress", choices=[], metric="pearson")
    objective = find_objective(run, tiny_tokenizer())
    assert objective.head is not None and objective.head.labels == ()
    assert objective.loss is value_loss
    row = row_parser(run.task["t"])({"text": "ab", "label": 2.5}, place="row 1", default_id="1")
    (example,) = objective.encoding.encode([row], ignore).examples
    assert objective.render(example)[-1] == ("2.5", True)


@pytest.mark.parametrize("pad", [None, "<eos>"])
def test_a_decoder_without_a_pad_token_of_its_own_pads_with_eos(pad: str | None):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = pad
    objective = find_objective(judged_run(), tokenizer)
    assert objective.head is not None and objective.head.pad_token_id == tokenizer.eos_token_id
    row = objective.parse({"text": "ab<eos>", "label": 1}, place="row 1", default_id="1")
    with pytest.raises(UserError, match="row 1: ends with the token that pads"):
        objective.encoding.encode([row], ignore)
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"task.t needs a head.*tiny has neither"):
        find_objective(judged_run(), tokenizer)


@pytest.mark.parametrize("adapter", ["lora", "dora", "toplora", "tenslora", "genlora"])
def test_every_adapter_trains_the_head_with_it(adapter: str, tmp_path: Path):
    config = replace(judged_run(), adapter=tiny_run(tmp_path, adapter).adapter)
    objective = find_objective(config, tiny_tokenizer())
    model = load_base(config, TINY, objective.head)
    adapted = attach_adapter(model, config.adapter, seed=1)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    heads = [name for name in trained if ".score." in name]
    assert len(heads) == 1 and "modules_to_save" in heads[0]
    assert len(trained) > 1


def test_a_reloaded_base_starts_with_another_head():
    config = judged_run()
    objective = find_objective(config, tiny_tokenizer())
    first = load_base(config, TINY, objective.head)
    other = load_base(config, TINY, objective.head, head_seed=config.seed + 1)
    assert not torch.equal(first.score.weight, other.score.weight)


def test_a_head_refuses_packed_rows():
    run = judged_run()
    packed = replace(run, trainer=replace(run.trainer, batching="packed"))
    with pytest.raises(UserError, match=r"trainer\.batching=packed is for language models"):
        find_objective(packed, tiny_tokenizer())
