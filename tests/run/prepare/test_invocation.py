"""The invocation of Activated LoRA is looked for in every training prompt."""

from dataclasses import replace

import pytest

from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.run.prepare.invocation import with_invocation
from toplora_train.run.prepare.run_data import prepare


def activated(config, **changes):
    return replace(config, adapter={**adapter_defaults("alora")[0], **changes})


def test_other_adapters_stay_as_they_are(make_run):
    config = make_run()
    assert with_invocation(config, prepare(config)) is config


def test_its_token_ids_are_the_tokenizers(make_run):
    config = activated(make_run())
    data = prepare(config)
    expected = data.tokenizer("### Response:", add_special_tokens=False)["input_ids"]
    assert with_invocation(config, data).adapter["invocation_tokens"] == expected


def test_rows_without_it_are_counted_and_the_tokens_shown(make_run):
    config = activated(make_run(), invocation="### Answer:")
    data = prepare(config)
    count = len(data.encoded.examples)
    with pytest.raises(
        UserError,
        match=rf"^adapter\.invocation='### Answer:', tokens \[\d+, .*\] \(.*\), occurs in the "
        rf"prompts of 0 of {count} training rows; the first without is .*1",
    ):
        with_invocation(config, data)
    config = activated(config, invocation_tokens=[300, 301])
    with pytest.raises(UserError, match=r"^adapter\.invocation_tokens=\[300, 301\] occur in the"):
        with_invocation(config, data)


def test_an_answer_that_contains_it_does_not_activate(make_run):
    config = activated(make_run(), invocation="\n")  # the prompt's, not the answer's
    data = prepare(config)
    answers = [{*one.input_ids[one.prompt_length :]} for one in data.encoded.examples]
    token = min(set.intersection(*answers))  # such as the end of the text
    prompts = [{*one.input_ids[: one.prompt_length]} for one in data.encoded.examples]
    assert token not in set.union(*prompts)
    with pytest.raises(UserError, match=r"occur in the prompts of 0 of"):
        with_invocation(activated(config, invocation_tokens=[token]), data)


def test_packed_rows_are_refused(make_run):
    config = activated(make_run())
    packed = replace(config, trainer=replace(config.trainer, batching="packed"))
    with pytest.raises(UserError, match=r"^trainer\.batching=packed: only the last of the rows"):
        with_invocation(packed, prepare(config))
