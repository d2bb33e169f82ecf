"""Answer all rows of a file, with progress, and resume where an interrupted job ended."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from toplora_train.report.display import EncodingDisplay
from toplora_train.report.numbers import counted
from toplora_train.run.assemble.answer_file import Answer, AnswerFile
from toplora_train.run.generate import Answerer


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
        for who in whose:
            done = {answer.index for answer in file.kept if answer.who == who}
            left = [index for index in range(len(prompts)) if index not in done]
            with EncodingDisplay(f"{who} model", len(prompts), verb="answering") as display:
                display.add(len(done))
                pending = [prompts[index] for index in left]
                for one in answerer.answers(pending, base=who == "base") if pending else ():
                    file.add(Answer(who, left[one.index], one.text, one.finished))
                    display.add(1)
        found = {(answer.who, answer.index): answer for answer in file.kept}
        lines: list[dict[str, object]] = []
        for index, prompt in enumerate(prompts):
            lines.append({"id": prompt.id, "prompt": prompt.text})
            for who, prefix in zip(reversed(whose), ("", "base_"), strict=False):
                answer = found[who, index]
                lines[-1] |= {f"{prefix}output": answer.text, f"{prefix}finished": answer.finished}
        file.finish(lines)
    cut = sum(not answer.finished for answer in found.values())
    limit_hit = f"; {cut} cut off at max_new_tokens={answerer.decoding.max_new_tokens}"
    reused = f", {resumed} of them from the interrupted job" if resumed else ""
    answers = counted(len(found), "answer")
    return f"{answers} written to {output}{reused}{limit_hit if cut else ''}"
