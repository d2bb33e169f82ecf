"""Encoding: the mask begins where the answer begins, with every kind of tokenizer."""

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from toplora_train.config.errors import UserError
from toplora_train.data.encode import (
    CHUNK,
    Example,
    encode_example,
    encode_prompt,
    encode_rows,
    prove_prompt_prefix,
    render_example,
)
from toplora_train.data.overflow import Encoded
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row
from toplora_train.models.tiny import tiny_tokenizer

ROWS = [
    Row("a", "What is 1 + 2?", "", "3", "3"),
    Row("b", "Say it in German.", "five", " fünf \n", ""),
    Row("c", "Say é twice.", "", "éé 🙂", ""),
]
PROMPT = "Say it:\n"


def with_template(template):
    """The byte tokenizer, with a BOS (here ``<pad>``'s id) and EOS put around a text as asked."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<pad>", 0), ("<eos>", 1)]
    )
    return tokenizer


def merging_tokenizer():
    """A tokenizer that would join the prompt's last line end with the answer's first letter."""
    tokenizer = tiny_tokenizer()
    model = tokenizer.backend_tokenizer.model
    newline, three = "Ċ", "3"  # how byte-level tokenizers write a line end
    vocabulary = {**tokenizer.get_vocab(), newline + three: 258}
    tokenizer.backend_tokenizer.model = type(model)(vocab=vocabulary, merges=[(newline, three)])
    return tokenizer


TOKENIZERS = {
    "no special tokens": tiny_tokenizer,
    "BOS": lambda: with_template("<pad> $A"),
    "EOS appended": lambda: with_template("$A <eos>"),
    "BOS and EOS": lambda: with_template("<pad> $A <eos>"),
    "merges across the border": merging_tokenizer,
}


@pytest.fixture(params=TOKENIZERS, ids=str)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


def learned(tokenizer, example):
    return tokenizer.decode(example.input_ids[example.prompt_length :])


def test_the_merging_tokenizer_does_merge_when_the_texts_are_joined():
    tokenizer = merging_tokenizer()
    assert tokenizer("\n3")["input_ids"] == [258]


def test_an_example_is_prompt_response_and_one_eos(tokenizer):
    example = encode_example(tokenizer, PROMPT, "3 is it")
    assert list(example.input_ids[: example.prompt_length]) == encode_prompt(tokenizer, PROMPT)
    assert learned(tokenizer, example) == "3 is it<eos>"
    assert example.input_ids.count(tokenizer.eos_token_id) == 1
    assert example.input_ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("name", "front"), [("no special tokens", 0), ("BOS", 1), ("BOS and EOS", 1)]
)
def test_bos_stands_in_front_once_or_never_as_the_tokenizer_has_it(name, front):
    example = encode_example(TOKENIZERS[name](), PROMPT, "3")
    bos = 0
    assert example.input_ids.count(bos) == front
    assert example.input_ids[:front] == (bos,) * front


def test_the_prompt_of_an_eos_appending_tokenizer_does_not_end_in_eos():
    assert encode_prompt(with_template("$A <eos>"), PROMPT) == encode_prompt(
        tiny_tokenizer(), PROMPT
    )


def test_what_is_learned_is_the_stripped_output_and_eos(tokenizer):
    encoded = encode_rows(tokenizer, ROWS, max_length=1000, overflow="error")
    texts = [learned(tokenizer, example) for example in encoded.examples]
    assert texts == ["3<eos>", "fünf<eos>", "éé 🙂<eos>"]


def test_what_is_not_learned_is_the_prompt(tokenizer):
    encoded = encode_rows(tokenizer, ROWS, max_length=1000, overflow="error")
    for row, example in zip(ROWS, encoded.examples, strict=True):
        prompt = tokenizer.decode(
            example.input_ids[: example.prompt_length], skip_special_tokens=True
        )
        assert prompt == build_prompt(row.instruction, row.input)


def test_rows_together_and_rows_alone_are_encoded_alike(tokenizer):
    rows = [Row(str(i), f"Say {i}.", "", f"{i}" * (i % 7 + 1), "") for i in range(CHUNK + 5)]
    encoded = encode_rows(tokenizer, rows, max_length=1000, overflow="error")
    for index in (0, 1, CHUNK - 1, CHUNK, CHUNK + 4):
        prompt = build_prompt(rows[index].instruction)
        assert encoded.examples[index] == encode_example(tokenizer, prompt, rows[index].output)


def test_the_counts_are_those_of_the_examples():
    tokenizer = tiny_tokenizer()
    encoded = encode_rows(tokenizer, ROWS, max_length=1000, overflow="error")
    responses = [len(row.output.strip().encode()) + 1 for row in ROWS]
    prompts = [len(build_prompt(row.instruction, row.input).encode()) for row in ROWS]
    assert encoded.supervised_tokens == sum(responses)
    assert encoded.tokens == sum(responses) + sum(prompts)
    assert (encoded.kept, encoded.truncated_rows, encoded.dropped_rows) == ((0, 1, 2), 0, 0)


def test_a_tokenizer_whose_padding_is_its_eos_loses_nothing():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert learned(tokenizer, encode_example(tokenizer, PROMPT, "3")) == "3<eos>"


def test_a_tokenizer_without_eos_is_an_error():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        encode_example(tokenizer, PROMPT, "3")


@pytest.mark.parametrize("output", ["", " \n"])
def test_a_row_without_output_is_an_error_that_names_it(output):
    rows = [*ROWS, Row("empty", "Say nothing.", "", output, "")]
    with pytest.raises(UserError, match="row 'empty': no 'output' to train on"):
        encode_rows(tiny_tokenizer(), rows, max_length=1000, overflow="error")


# Rows of one prompt and answers of 1 to 50 letters: with the byte tokenizer, lengths are known.
LETTERS = [1, 10, 50, 20]
GROWING = [Row(f"r{count}", "Go.", "", "x" * count, "") for count in LETTERS]
PROMPT_LENGTH = len(build_prompt("Go."))


def encode_growing(letters, overflow):
    """Encode the rows with room for an answer of so many letters, and EOS."""
    limit = PROMPT_LENGTH + letters + 1
    return encode_rows(tiny_tokenizer(), GROWING, max_length=limit, overflow=overflow)


def test_a_row_that_just_fits_is_kept_whole():
    for overflow in ("error", "drop", "truncate"):
        encoded = encode_growing(50, overflow)
        assert (len(encoded.examples), encoded.truncated_rows, encoded.dropped_rows) == (4, 0, 0)


def test_a_row_longer_than_the_limit_is_an_error_that_names_the_row_and_the_choices():
    with pytest.raises(UserError) as caught:
        encode_growing(10, "error")
    message = str(caught.value)
    assert f"2 of 4 rows are longer than max_length={PROMPT_LENGTH + 11}" in message
    assert f"row 'r50' with {PROMPT_LENGTH + 51}" in message
    for choice in ("dataset.max_length", "dataset.overflow=drop", "dataset.overflow=truncate"):
        assert choice in message


def test_drop_leaves_long_rows_out_and_counts_them():
    encoded = encode_growing(10, "drop")
    assert encoded.kept == (0, 1)
    assert (encoded.truncated_rows, encoded.dropped_rows) == (0, 2)
    assert encoded.supervised_tokens == 2 + 11


def test_drop_that_leaves_no_row_is_an_error():
    with pytest.raises(UserError, match="all 4 rows are longer than max_length"):
        encode_growing(-1, "drop")


def test_truncate_cuts_the_response_and_its_eos_and_counts_the_rows():
    encoded = encode_growing(10, "truncate")
    tokenizer = tiny_tokenizer()
    texts = [learned(tokenizer, example) for example in encoded.examples]
    assert texts == ["x<eos>", "x" * 10 + "<eos>", "x" * 11, "x" * 11]
    assert (encoded.truncated_rows, encoded.dropped_rows) == (2, 0)
    assert encoded.supervised_tokens == 2 + 11 + 11 + 11


def test_truncate_of_a_row_whose_prompt_fills_the_limit_is_an_error_that_names_it():
    with pytest.raises(UserError, match=f"row 'r1': its prompt alone has {PROMPT_LENGTH} tokens"):
        encode_growing(-1, "truncate")
    encode_growing(0, "truncate")  # one token is left to learn


def test_another_word_for_overflow_is_an_error():
    with pytest.raises(ValueError, match="'cut'"):
        encode_growing(10, "cut")


@pytest.mark.parametrize("overflow", ["drop", "truncate"])
def test_the_proof_holds_for_what_was_encoded(tokenizer, overflow):
    encoded = encode_rows(tokenizer, GROWING, max_length=PROMPT_LENGTH + 22, overflow=overflow)
    assert encoded.truncated_rows + encoded.dropped_rows == 1
    prove_prompt_prefix(tokenizer, GROWING, encoded)


def tampered(example):
    whole = encode_rows(tiny_tokenizer(), ROWS, max_length=1000, overflow="error")
    examples = (whole.examples[0], example(whole.examples[1]), whole.examples[2])
    return Encoded(examples, whole.kept)


@pytest.mark.parametrize(
    "example",
    [
        lambda one: Example((0, *one.input_ids), one.prompt_length + 1),  # a BOS too many
        lambda one: Example(one.input_ids, one.prompt_length - 1),  # learns the prompt's end
        lambda one: Example(one.input_ids, one.prompt_length + 1),  # misses the answer's start
        lambda one: Example((5, *one.input_ids[1:]), one.prompt_length),  # another prompt
    ],
)
def test_an_example_that_evaluation_would_ask_otherwise_fails_the_proof(example):
    with pytest.raises(UserError, match=r"^row 'b': its training tokens do not begin with"):
        prove_prompt_prefix(tiny_tokenizer(), ROWS, tampered(example))


def test_an_example_that_learns_nothing_fails_the_proof():
    cut = tampered(lambda one: Example(one.input_ids[: one.prompt_length], one.prompt_length))
    with pytest.raises(UserError, match=r"^row 'b' has no supervised token"):
        prove_prompt_prefix(tiny_tokenizer(), ROWS, cut)


def test_a_rendered_example_joins_to_the_whole_text_and_marks_what_is_learned(tokenizer):
    example = encode_example(tokenizer, PROMPT, "é 🙂")
    rendered = render_example(tokenizer, example)
    assert len(rendered) == len(example.input_ids)
    assert "".join(text for text, _ in rendered) == tokenizer.decode(example.input_ids)
    assert "".join(text for text, supervised in rendered if supervised) == "é 🙂<eos>"
    assert [supervised for _, supervised in rendered] == [
        place >= example.prompt_length for place in range(len(example.input_ids))
    ]


def test_a_character_of_several_tokens_is_rendered_once_and_whole():
    tokenizer = tiny_tokenizer()
    example = encode_example(tokenizer, "x", "🙂")
    texts = [text for text, _ in render_example(tokenizer, example)]
    assert texts == ["x", "", "", "", "🙂", "<eos>"]


def test_a_character_cut_in_half_is_rendered_as_what_it_is():
    tokenizer = tiny_tokenizer()
    whole = encode_example(tokenizer, "x", "é")
    cut = Example(whole.input_ids[:2], whole.prompt_length)
    assert [text for text, _ in render_example(tokenizer, cut)] == [
        "x",
        "\N{REPLACEMENT CHARACTER}",
    ]


def test_plain_text_is_learned_from_its_second_token_on():
    tokenizer = tiny_tokenizer()
    row = Row("a", "", "", "ab\n", "", form="text")
    encoded = encode_rows(tokenizer, [row], max_length=10, overflow="error")
    (example,) = encoded.examples
    assert tokenizer.decode(example.input_ids) == "ab\n<eos>"
    assert example.learned == (0, 1, 1, 1)
    prove_prompt_prefix(tokenizer, [row], encoded)


def test_long_text_is_split_so_that_each_token_is_learned_once():
    tokenizer = tiny_tokenizer()
    row = Row("a", "", "", "abcdefghijk", "", form="text")
    encoded = encode_rows(tokenizer, [row], max_length=8, overflow="split")
    assert encoded.kept == (0, 0)
    first, second = encoded.examples
    assert first.input_ids[-1] == second.input_ids[0]
    assert tokenizer.decode(first.input_ids[1:] + second.input_ids[1:]) == "bcdefghijk<eos>"
    assert len(first.input_ids) == 8
    with pytest.raises(UserError, match="split is for plain text"):
        encode_rows(tokenizer, [Row("a", "q", "", "r", "")], max_length=8, overflow="split")
    with pytest.raises(UserError, match=r"set dataset\.overflow=split"):
        encode_rows(tokenizer, [row], max_length=8, overflow="error")
