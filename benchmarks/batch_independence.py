"""Whether the batch size or the proof changes an answer, on real rows and a tuned model, in fp32.

    python benchmarks/batch_independence.py --run DIR --task winogrande --rows 100 --data-root DATA

The rows are asked one by one, decoded token by token: these are the answers that the others have to
be equal to. Then, at batch sizes 1, 7 and 32: decoded; proven in one pass, and decoded where they
cannot be; and chosen by likelihood, which is held against choosing one by one. Writes JSON and
fails if a single answer differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from toplora_train.config.again import evaluation_config
from toplora_train.config.resolved import read_config
from toplora_train.evaluation.predictions import Prediction
from toplora_train.run.assemble.scores import ASK
from toplora_train.run.platform.device import open_accelerator
from toplora_train.run.prepare.adapted_model import load_adapted
from toplora_train.run.prepare.eval_sets import read_eval_sets

SIZES = (1, 7, 32)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--task", default="winogrande")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--data-root", default=None)
    given = parser.parse_args()

    config = evaluation_config(
        read_config(given.run / "config.yaml"),
        tasks=[given.task],
        evaluation={"limit": str(given.rows)},
        data_root=given.data_root,
    )
    data_root = Path(config.data_root) if config.data_root else None
    (asked,) = read_eval_sets(config.task, config.dataset, config.evaluation, data_root=data_root)
    device = open_accelerator(device=config.launch.device, mixed_precision="no").device
    model, tokenizer = load_adapted(config, given.run, device=device)
    model.float()
    ways = {
        "decoded": replace(asked, kind="generate", response=None),
        "proven": replace(asked, kind="generate"),
        "chosen": replace(asked, kind="choose"),
    }

    def answers(way: str, batch_size: int) -> list[Prediction]:
        _, predictions = ASK[ways[way].kind](model, tokenizer, ways[way], batch_size=batch_size)
        return predictions

    alone = {way: answers(way, 1) for way in ways}
    expected = {
        "decoded": [one.output for one in alone["decoded"]],
        "proven": [one.output for one in alone["decoded"]],
        "chosen": [one.output for one in alone["chosen"]],
    }
    equal: dict[str, dict[int, int]] = {}
    largest = 0.0  # difference of a log-likelihood
    for way, outputs in expected.items():
        for size in SIZES:
            found = alone[way] if size == 1 else answers(way, size)
            same = sum(one.output == text for one, text in zip(found, outputs, strict=True))
            equal.setdefault(way, {})[size] = same
            if way == "chosen":
                largest = max(
                    largest,
                    *(
                        abs(value - one.scores[choice])
                        for one, other in zip(alone[way], found, strict=True)
                        for choice, value in other.scores.items()
                    ),
                )
    rows = len(alone["decoded"])
    in_the_words = sum(
        one.output in {(asked.response or "").replace("{answer}", c) for c in asked.choices}
        for one in alone["decoded"]
    )
    print(
        json.dumps(
            {
                "run": str(given.run),
                "task": given.task,
                "rows": rows,
                "answered_in_the_tasks_words": in_the_words,
                "equal": equal,
                "largest_difference_of_a_log_likelihood": largest,
            },
            indent=2,
        )
    )
    return int(any(same != rows for by_size in equal.values() for same in by_size.values()))


if __name__ == "__main__":
    sys.exit(main())
