import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.encode import encode_prompt
from toplora_train.data.legacy import (
    CUTOFF,
    count_prompt_mismatches,
    encode_legacy_rows,
    llm_adapters_prompt,
    toplora_prompt,
    training_prompt,
)
from toplora_train.data.rows import Row
from toplora_train.models.tiny import tiny_tokenizer

ALONE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request."
)
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
B12, B16 = " " * 12, " " * 16

PROMPTS = {
    (training_prompt, ""): (
        f"{ALONE}  \n\n{B16}### Instruction:\n{B16}Add.\nThen stop.\n{B16}\n"
        f"{B16}### Response:\n{B16}"
    ),
    (training_prompt, "1, 2"): (
        f"{PAIRED} \n\n{B16}### Instruction:\n{B16}Add.\nThen stop.\n{B16}\n"
        f"{B16}### Input:\n{B16}1, 2\n{B16}\n{B16}### Response:\n{B16}"
    ),
    (llm_adapters_prompt, ""): (
        f"{ALONE} \n\n{B16}### Instruction:\n{B16}Add.\nThen stop.\n\n{B16}### Response:\n{B16}"
    ),
    (llm_adapters_prompt, "1, 2"): (
        f"{PAIRED}\n\n{B16}### Instruction:\n{B16}Add.\nThen stop.\n\n"
        f"{B16}### Input:\n{B16}1, 2\n\n{B16}### Response:\n{B16}"
    ),
    (toplora_prompt, ""): (
        f"{ALONE} \n\n{B12}### Instruction:\n{B12}Add.\nThen stop.\n\n{B12}### Response:\n{B12}"
    ),
    (toplora_prompt, "1, 2"): (
        f"{ALONE} \n\n{B12}### Instruction:\n{B12}Add.\nThen stop.\n\n{B12}### Response:\n{B12}"
    ),
}


@pytest.mark.parametrize(
    ("build", "context", "expected"), [(*key, text) for key, text in PROMPTS.items()]
)
def test_prompts_match_the_scripts_byte_for_byte(build, context, expected):
    assert build("Add.\nThen stop.", context) == expected


def row(name="r", instruction="2?", output="4"):
    return Row(name, instruction, "", output, "")


def ids(text):
    return tiny_tokenizer()(text)["input_ids"]


def test_a_short_row_is_one_text_with_eos_appended():
    tokenizer = tiny_tokenizer()
    encoded = encode_legacy_rows(tokenizer, [row()], supervise_prompt=False)
    (example,) = encoded.examples
    whole = ids(training_prompt("2?") + "4")
    assert list(example.input_ids) == [*whole, tokenizer.eos_token_id]
    assert example.prompt_length == len(whole) - 1
    assert (encoded.truncated_rows, encoded.dropped_rows) == (0, 0)


def test_long_rows_are_truncated_and_rows_with_only_a_prompt_dropped():
    tokenizer = tiny_tokenizer()
    rows = [row("fits"), row("cut", output="9" * 300), row("full", instruction="x" * 300)]
    encoded = encode_legacy_rows(tokenizer, rows, supervise_prompt=False)
    assert encoded.kept == (0, 1)
    assert [len(e.input_ids) for e in encoded.examples][1] == CUTOFF
    assert encoded.examples[1].input_ids[-1] != tokenizer.eos_token_id
    assert (encoded.truncated_rows, encoded.dropped_rows) == (1, 1)


def test_with_supervise_prompt_every_token_is_supervised():
    rows = [row("fits"), row("full", instruction="x" * 300)]
    encoded = encode_legacy_rows(tiny_tokenizer(), rows, supervise_prompt=True)
    assert encoded.kept == (0, 1)
    assert encoded.supervised_tokens == encoded.tokens


def test_if_no_row_has_a_supervised_token_it_is_an_error():
    rows = [row(instruction="x" * 300)]
    with pytest.raises(UserError, match="prompts of all 1 rows fill the 256 tokens"):
        encode_legacy_rows(tiny_tokenizer(), rows, supervise_prompt=False)


def test_every_row_is_a_prompt_mismatch():
    tokenizer = tiny_tokenizer()
    rows = [row("a"), row("b", instruction="3?")]
    encoded = encode_legacy_rows(tokenizer, rows, supervise_prompt=True)
    for protocol in ("legacy.toplora", "legacy.llm_adapters"):
        assert count_prompt_mismatches(tokenizer, rows, encoded, protocol=protocol) == 2
    assert encode_prompt(tokenizer, toplora_prompt("2?")) != ids(training_prompt("2?"))
