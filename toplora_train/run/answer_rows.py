"""Answer all rows of a file, with progress, and resume where an interrupted job ended.

While answers are made they are in ``OUTPUT.partial``: a first line that identifies what they depend
on, then a line for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import AppendedLines, json_line, write_text_atomically
from toplora_train.config.reading import parse_json, validate_json
from toplora_train.report.display import EncodingDisplay
from toplora_train.report.numbers import counted
from toplora_train.run.generate import Answerer, Prompt


def answer_rows(
    answerer: Answerer, source: str, output: Path, *, base: bool, limit: int | None
) -> str:
    """Write a line per row, in the order of the file, and say in a sentence what was written.

    A line is ``{"id", "prompt", "output", "finished"}``, with ``base`` also ``base_output`` and
    ``base_finished``; ``finished`` is false for an answer that was cut off at ``max_new_tokens``.

    Raises:
        UserError: The rows cannot be read, ``output`` exists, or a partial file has other answers.
    """
    prompts = answerer.read(source, limit)
    whose = ["base", "tuned"] if base else ["tuned"]
    depends_on = [answerer.weights, asdict(answerer.decoding), [(p.id, p.text) for p in prompts]]
    digest = hashlib.sha256(json.dumps([depends_on, whose]).encode()).hexdigest()
    with AnswerFile(output, belongs_to=digest) as file:
        resumed = len(file.kept)
        numbered = dict(enumerate(prompts))
        found = {
            who: answer_left(answerer, file, who, numbered, base=who == "base") for who in whose
        }
        lines: list[dict[str, object]] = []
        for index, prompt in enumerate(prompts):
            lines.append({"id": prompt.id, "prompt": prompt.text})
            for who, prefix in zip(reversed(whose), ("", "base_"), strict=False):
                answer = found[who][index]
                lines[-1] |= {f"{prefix}output": answer.text, f"{prefix}finished": answer.finished}
        file.finish(lines)
    cut = sum(not answer.finished for answer in file.kept)
    limit_hit = f"; {cut} cut off at max_new_tokens={answerer.decoding.max_new_tokens}"
    reused = f", {resumed} of them from the interrupted job" if resumed else ""
    answers = counted(len(file.kept), "answer")
    return f"{answers} written to {output}{reused}{limit_hit if cut else ''}"


def answer_left(
    answerer: Answerer, file: AnswerFile, who: str, prompts: Mapping[int, Prompt], *, base: bool
) -> dict[int, Answer]:
    """Answer those of ``who``'s prompts that the file has no answer to; return all answers."""
    found = {answer.index: answer for answer in file.kept if answer.who == who}
    left = [index for index in prompts if index not in found]
    with EncodingDisplay(f"{who} model", len(prompts), verb="answering") as display:
        display.add(len(found))
        pending = [prompts[index] for index in left]
        answerer.continue_sampling(who, len(found))
        for one in answerer.answers(pending, base=base) if pending else ():
            index = left[one.index]
            found[index] = Answer(who, index, one.text, one.finished)
            file.add(found[index])
            display.add(1)
    return found


@dataclass(frozen=True)
class Answer:
    """An answer: whose it is (``base`` or ``tuned``), the index of its prompt, and the text.

    ``finished`` is false where it was cut off at ``max_new_tokens``.
    """

    who: str
    index: int
    text: str
    finished: bool


class AnswerFile(AppendedLines):
    """Keeps answers as they are made; a context manager.

    Args:
        path: The final file.
        belongs_to: Identifies prompts, weights and settings.

    Attributes:
        kept: The answers of an interrupted job, then also those that were added.

    Raises:
        UserError: The file exists, or the partial file has answers to other prompts.
    """

    def __init__(self, path: Path, *, belongs_to: str) -> None:
        self.path, self.partial = path, path.with_name(f"{path.name}.partial")
        if path.exists():
            raise UserError(f"{path} already exists; choose another file with output=FILE")
        self.kept = self._read(belongs_to)
        super().__init__(self.partial, [{"belongs_to": belongs_to}, *map(asdict, self.kept)])

    def add(self, answer: Answer) -> None:
        """Keep an answer: it survives the end of this process."""
        self.kept.append(answer)
        self.append_line(asdict(answer))

    def finish(self, lines: Sequence[dict[str, object]]) -> None:
        """Write the final file atomically, a line for each of ``lines``; remove the partial one."""
        write_text_atomically(self.path, "".join(map(json_line, lines)))
        self.partial.unlink()

    def _read(self, belongs_to: str) -> list[Answer]:
        if not self.partial.is_file():
            return []
        head, *lines = self.partial.read_text(encoding="utf-8", errors="replace").split("\n")
        try:
            same = parse_json(head) == {"belongs_to": belongs_to}
        except ValueError:
            same = not lines  # the job ended while it wrote the first line
        if not same:
            raise UserError(
                f"{self.partial} has answers to other prompts, of other weights or with other "
                "settings; choose another output=FILE, or remove it"
            )
        place = f"{self.partial}, line"
        # A last line without a newline was cut off.
        return [
            validate_json(Answer, line, f"{place} {number}")
            for number, line in enumerate(lines[:-1], start=2)
        ]
