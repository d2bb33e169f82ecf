"""Check that batch size and answer verification do not change answers, on a tuned model in fp32.

    python benchmarks/batch_independence.py --run DIR --task winogrande --rows 100 --data-root DATA

The reference decodes the rows one at a time, token by token. It is compared, at batch sizes 1, 7
and 32, with plain decoding ("decoded") and with answers verified in one forward pass, decoded only
if that fails ("proven"); choosing by likelihood ("chosen") is compared with batch size 1. Prints
JSON and fails if any answer differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from toplora_train.config.again import evaluation_config
from toplora_train.config.resolved import read_config
from toplora_train.evaluation.methods.base import EvalContext, find_method
from toplora_train.evaluation.predictions import Prediction
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
    arguments = parser.parse_args()

    config = evaluation_config(
        read_config(arguments.run / "config.yaml"),
        tasks=[arguments.task],
        evaluation={"limit": str(arguments.rows)},
        data_root=arguments.data_root,
    )
    data_root = Path(config.data_root) if config.data_root else None
    (eval_set,) = read_eval_sets(
        config.task, config.dataset, config.evaluation, data_root=data_root
    )
    device = open_accelerator(device=config.launch.device, mixed_precision="no").device
    model, tokenizer = load_adapted(config, arguments.run, device=device)
    model.float()
    variants = {
        "decoded": replace(eval_set, kind="generate", response=None),
        "proven": replace(eval_set, kind="generate"),
        "chosen": replace(eval_set, kind="choose"),
    }

    def answers(variant: str, batch_size: int) -> list[Prediction]:
        eval_set = variants[variant]
        context = EvalContext(batch_size=batch_size)
        return find_method(eval_set.kind).evaluate(model, tokenizer, eval_set, context)[1]

    alone = {variant: answers(variant, 1) for variant in variants}
    expected = {
        "decoded": [one.output for one in alone["decoded"]],
        "proven": [one.output for one in alone["decoded"]],
        "chosen": [one.output for one in alone["chosen"]],
    }
    equal: dict[str, dict[int, int]] = {}
    largest = 0.0  # difference of a log-likelihood
    for variant, outputs in expected.items():
        for size in SIZES:
            found = alone[variant] if size == 1 else answers(variant, size)
            same = sum(one.output == text for one, text in zip(found, outputs, strict=True))
            equal.setdefault(variant, {})[size] = same
            if variant == "chosen":
                largest = max(
                    largest,
                    *(
                        abs(value - one.scores[choice])
                        for one, other in zip(alone[variant], found, strict=True)
                        for choice, value in other.scores.items()
                    ),
                )
    rows = len(alone["decoded"])
    in_expected_form = sum(
        one.output in {(eval_set.response or "").replace("{answer}", c) for c in eval_set.choices}
        for one in alone["decoded"]
    )
    print(
        json.dumps(
            {
                "run": str(arguments.run),
                "task": arguments.task,
                "rows": rows,
                "answered_in_the_tasks_words": in_expected_form,
                "equal": equal,
                "largest_difference_of_a_log_likelihood": largest,
            },
            indent=2,
        )
    )
    return int(any(same != rows for by_size in equal.values() for same in by_size.values()))


if __name__ == "__main__":
    sys.exit(main())
