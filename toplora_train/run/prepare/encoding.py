"""Encode rows as tokens by the evaluation's protocol, once, through the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.config.template import fill
from toplora_train.data.cache import (
    FOUND,
    FRESH,
    PARTLY,
    PIECE,
    REBUILT,
    joined,
    load_or_encode,
    tokenizer_digest,
    tokens_key,
)
from toplora_train.data.chat import chat_prompt, encode_chat_rows, prove_chat_prefix
from toplora_train.data.conversation import Message
from toplora_train.data.encode import CHUNK, Example, OnRows, encode_rows, prove_prompt_prefix
from toplora_train.data.forks import cores, in_forks
from toplora_train.data.legacy import (
    SUPERVISES_PROMPT,
    count_prompt_mismatches,
    encode_legacy_rows,
    training_prompt,
)
from toplora_train.data.overflow import Encoded, NoneLeftError, TooLongError
from toplora_train.data.prompts import PROMPTS, build_prompt
from toplora_train.data.rows import COMPLETION, TEXT, Row, RowSet
from toplora_train.evaluation.ranks import Ranks
from toplora_train.report.display import EncodingDisplay

KINDS = {"": "an instruction", TEXT: "plain text", COMPLETION: "a prompt and its completion"}
SINGLE = Ranks()
logger = logging.getLogger(__name__)


def ignored(_: int) -> None:
    """Progress that was counted before."""


@dataclass(frozen=True)
class Encoding:
    """How a run's rows become examples.

    Attributes:
        example: The examples' class.
        settings: What determines the tokens besides rows and tokenizer, as plain values.
        encode: Turns rows into examples; its second argument is the progress callback.
        cached: Whether examples may be read from the cache, which holds tokens only.
    """

    example: type[Any]
    settings: Mapping[str, Any]
    encode: Callable[[Sequence[Row], OnRows], Encoded[Any]]
    cached: bool = True


class Encoder:
    """Encodes sets of rows, reading those that were encoded before from the cache.

    The processes of a computer each encode some of the pieces, and read the others' from the cache;
    so do the forks of a single process.

    Args:
        encoding: How rows become examples.
        tokenizer: Its files are part of the cache key; must not have been used before.
        folder: The cache; None disables it.
        console: Shows progress.
        local: The process's rank among those of its computer; one beyond them waits for the others.
        barrier: Waits until all processes have encoded their pieces; None for a single process.
    """

    def __init__(
        self,
        encoding: Encoding,
        tokenizer: PreTrainedTokenizerBase,
        *,
        folder: Path | None,
        console: Console,
        local: Ranks = SINGLE,
        barrier: Callable[[], None] | None = None,
    ) -> None:
        folder = folder if encoding.cached else None
        self._encoding = encoding
        self._tokenizer = tokenizer_digest(tokenizer) if folder is not None else ""
        self._vocabulary = 1 + max(tokenizer.get_vocab().values(), default=-1)
        self._folder = folder
        self._console = console
        self._local, self._barrier = local, barrier

    def encode(self, rows: RowSet, name: str) -> tuple[Encoded[Any], str]:
        """The examples of ``rows``, called ``name``, and whether they were cached, in words.

        Raises:
            UserError: A row cannot be encoded under the settings.
        """
        with EncodingDisplay(name, len(rows.rows), console=self._console) as display:
            if not self._encoding.cached:  # of images, whose pixels are on disk already
                return self._encoding.encode(rows.rows, display.add), FRESH
            pieces, origins = self._pieces(rows, display.add)
        encoded = joined(pieces, self._encoding.example)
        origin = next(iter(origins)) if len(origins) == 1 else PARTLY
        logger.info("the tokens of the %s: %s", name, origin)
        return encoded, REBUILT if REBUILT in origins else origin

    def _pieces(self, rows: RowSet, on_rows: OnRows) -> tuple[list[Any], set[str]]:
        """The tables of all rows, a piece each, and where this process's own came from.

        An error about several rows counts those of all pieces.
        """
        count = len(rows.rows)
        every = range(0, count, PIECE)
        made = self._in_parallel(rows, every, on_rows)
        pieces, origins, too_long = [], set[str](), list[TooLongError]()
        for first in every:
            with suppress(TooLongError):
                counted = ignored if first in made else on_rows
                piece, origin = self._piece(rows, first, counted, too_long)
                pieces.append(piece)
                origins.add(origin)
        if too_long:
            raise TooLongError.of_all(too_long, count)
        if not any(piece.num_rows for piece in pieces):
            try:
                self._encoding.encode(list(rows.rows[:CHUNK]), on_rows)
            except NoneLeftError as error:
                raise NoneLeftError(error.reason, count) from None
        return pieces, set(made.values()) or origins

    def _in_parallel(self, rows: RowSet, every: range, on_rows: OnRows) -> dict[int, str]:
        """Cache the pieces, each in one of the computer's processes, or in a fork of this one.

        Returns:
            Where those of this process and its forks came from. A piece that cannot be encoded is
            missing: it is tried again after the others, so that the first error is raised.
        """
        if self._folder is None:
            return {}

        def origin_of(first: int, on_rows: OnRows) -> str | None:
            with suppress(UserError):
                return self._piece(rows, first, on_rows, [])[1]
            return None

        if self._barrier is not None:
            own = every[self._local.rank :: self._local.world_size]
            if self._local.rank >= self._local.world_size:
                own = range(0)
            origins = {first: origin_of(first, on_rows) for first in own}
            self._barrier()
            return {first: origin for first, origin in origins.items() if origin is not None}

        forks = min(cores(), len(every))
        if forks < 2:
            return {}

        def work(number: int, send: Callable[[tuple[int, int, str | None]], None]) -> None:
            for first in every[number::forks]:
                origin = origin_of(first, lambda done: send((0, done, None)))
                send((first, 0, origin))

        made = {}
        for first, done, origin in in_forks(work, forks):
            on_rows(done)
            if origin is not None:
                made[first] = origin
        return made

    def _piece(
        self, rows: RowSet, first: int, on_rows: OnRows, too_long: list[TooLongError]
    ) -> tuple[Any, str]:
        """The table of the piece that begins with the row ``first``, and where it came from.

        Raises:
            TooLongError: Added to ``too_long``.
        """
        key = tokens_key(rows.sha256, self._tokenizer, self._encoding.settings)
        piece = range(first, min(first + PIECE, len(rows.rows)))
        found = load_or_encode(
            None if self._folder is None else self._folder / f"{key}-{first // PIECE}",
            self._encoding.example,
            partial(self._parts, rows.rows, piece, on_rows, too_long),
            vocabulary=self._vocabulary,
        )
        on_rows(len(piece) if found[1] == FOUND else 0)
        return found

    def _parts(
        self, rows: Sequence[Row], piece: range, on_rows: OnRows, too_long: list[TooLongError]
    ) -> Iterator[Encoded[Any]]:
        """The examples of a piece, a part at a time.

        Raises:
            TooLongError: Added to ``too_long``, as every one before it.
        """
        before = len(too_long)
        for start in piece[::CHUNK]:
            part = list(rows[start : min(start + CHUNK, piece.stop)])
            try:
                encoded = self._encoding.encode(part, on_rows)
            except NoneLeftError:
                encoded = Encoded((), (), dropped_rows=len(part))
            except TooLongError as error:
                too_long.append(error)
                continue
            yield replace(encoded, kept=[start + index for index in encoded.kept])
        if len(too_long) > before:
            raise too_long[-1]


def learned_prompt(
    protocol: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    chat: bool = False,
    template: str | None = None,
) -> str:
    """The training prompt, with ``{instruction}`` in place of a row's instruction.

    With ``chat``, the tokenizer's chat template applied to a single user message; with a
    ``template`` of the rows' own, that template with its columns in braces.
    """
    if chat and tokenizer is not None:
        message = Message("user", "{instruction}")
        return chat_prompt(tokenizer, Row("", message.content, "", "", "", (message,)))
    if template in PROMPTS:
        return f"(the text that its author's own function {template} makes of a row)"
    if template is not None:
        return fill(template, {})
    build = training_prompt if protocol in SUPERVISES_PROMPT else build_prompt
    return build("{instruction}")


def has_conversations(rows: Sequence[Row]) -> bool:
    """Whether the training rows are conversations.

    Raises:
        UserError: Only some of them are.
    """
    first = _kind(rows[0])
    for row in rows:
        if _kind(row) != first:
            raise UserError(
                f"{rows[0].where} is {first}, {row.where} is not; a run trains on one kind only: "
                "convert one of them"
            )
    return bool(rows[0].messages)


def _kind(row: Row) -> str:
    return "a conversation" if row.messages else KINDS[row.form]


def encode_for(
    protocol: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int,
    overflow: str,
    learn: str = "last",
    on_rows: OnRows | None = None,
) -> Encoded[Example]:
    """Encode the rows, and check that training and evaluation prompts have the same tokens.

    Under the clean protocol a mismatch is an error; conversations use the model's chat template,
    other rows this project's prompt. A legacy protocol has its own prompts and its own cut-off of
    256 tokens (``max_length`` and ``overflow`` do not apply), and evaluates with other prompts than
    it trains on: these mismatches are counted and reported.

    Raises:
        UserError: See :func:`toplora_train.data.encode.encode_rows` and ``prove_prompt_prefix``.
    """
    if has_conversations(rows):
        if protocol in SUPERVISES_PROMPT:
            raise UserError(
                f"evaluation.protocol={protocol} has its own prompts and no conversations, but "
                f"{rows[0].where} is one; use protocol=clean"
            )
        encoded = encode_chat_rows(
            tokenizer, rows, max_length=max_length, overflow=overflow, learn=learn, on_rows=on_rows
        )
        prove_chat_prefix(tokenizer, rows, encoded)
        return encoded
    if learn != "last":
        raise UserError(
            f"dataset.learn={learn} is for conversations, but {rows[0].where} is {_kind(rows[0])}; "
            "leave it out"
        )
    if protocol in SUPERVISES_PROMPT:
        if rows[0].form:
            raise UserError(
                f"evaluation.protocol={protocol} has its own prompts, but {rows[0].where} is "
                f"{_kind(rows[0])}, which is used as it is; use protocol=clean"
            )
        encoded = encode_legacy_rows(
            tokenizer, rows, supervise_prompt=SUPERVISES_PROMPT[protocol], on_rows=on_rows
        )
        mismatches = count_prompt_mismatches(tokenizer, rows, encoded, protocol=protocol)
        return replace(encoded, prompt_mismatches=mismatches)
    encoded = encode_rows(
        tokenizer, rows, max_length=max_length, overflow=overflow, on_rows=on_rows
    )
    prove_prompt_prefix(tokenizer, rows, encoded)
    return encoded
