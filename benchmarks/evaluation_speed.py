"""Measure evaluation speed against the public scripts' decoding and lm-evaluation-harness.

    python benchmarks/evaluation_speed.py --run DIR --task winogrande --rows 200 --data-root MIRROR

On a finished run, several methods answer the same rows:

    written   greedy decoding, with expected answers verified in one forward pass
    chosen    the most probable of the task's choices
    harness   the same likelihoods by lm-evaluation-harness, where it is installed
    decoded   up to the task's number of tokens, file order, batches of 32, left-padded; a
              batch ends when all of its rows have
    script    the same with torch's default matrix products, as a public script would run, if
              this package selects another library (`toplora_train/run/platform/cpu_matmul.py`)

Methods are interleaved by round, so that machine noise affects all equally; the best round of each
is reported, in wall-clock and CPU seconds (the latter is less noisy; on a GPU only the wall clock
is meaningful). `times_faster` is relative to the faster of the last two, and `equal` counts the
rows answered as by `decoded`; both to `harness` where neither is among the ``--methods``. A task
without choices is only written and decoded. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from toplora_train.config.again import evaluation_config
from toplora_train.config.resolved import read_config
from toplora_train.data.encode import encode_prompt
from toplora_train.evaluation.decoding.decode import decode_answer, own_settings_aside
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.forward import autocast, in_slices, left_padded
from toplora_train.evaluation.methods.base import EvalContext, find_method
from toplora_train.evaluation.methods.choose import encode_choices, responses
from toplora_train.run.platform.cpu_matmul import PRODUCTS
from toplora_train.run.platform.device import AUTOCAST, open_accelerator
from toplora_train.run.prepare.adapted_model import load_adapted
from toplora_train.run.prepare.eval_sets import read_eval_sets

BATCH = 32
METHODS = ("written", "chosen", "harness", "decoded")
Answers = dict[str, str | None]


def decoded(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    eval_set: EvalSet,
    dtype: torch.dtype | None,
) -> Answers:
    """Decode as most public scripts do, with this package's prompt and answer extraction."""
    rows = eval_set.rows.rows
    device = next(model.parameters()).device
    ends, found = {tokenizer.eos_token_id}, {}
    settings = GenerationConfig(
        max_new_tokens=eval_set.token_limit,
        do_sample=False,
        pad_token_id=min(ends),
        eos_token_id=min(ends),
    )
    for batch in in_slices(range(len(rows)), BATCH):
        texts = [eval_set.protocol.build_prompt(rows[i].instruction, rows[i].input) for i in batch]
        inputs = left_padded([encode_prompt(tokenizer, text) for text in texts], min(ends))
        with torch.inference_mode(), autocast(device, dtype), own_settings_aside(model):
            tokens = model.generate(
                **{name: value.to(device) for name, value in inputs.items()},
                generation_config=settings,
            )
        answers = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        for i, answer in zip(batch, answers, strict=True):
            text = decode_answer(tokenizer, answer, ends)
            found[rows[i].id] = eval_set.protocol.extract(
                text, eval_set.extraction, eval_set.choices
            )
    return found


def harness(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    eval_set: EvalSet,
    batch_size: int,
    dtype: torch.dtype | None,
) -> Answers:
    """Rank the same tokens by lm-evaluation-harness' language model."""
    from lm_eval.models.huggingface import HFLM

    rows, options = eval_set.rows.rows, encode_choices(tokenizer, responses(eval_set))
    texts = [eval_set.protocol.build_prompt(row.instruction, row.input) for row in rows]
    prompts = [encode_prompt(tokenizer, text) for text in texts]
    requests = [
        ((str(place), str(option)), prompt, [*options.shared, *tail])
        for place, prompt in enumerate(prompts)
        for option, tail in enumerate(options.tails)
    ]
    lm = HFLM(model, tokenizer=tokenizer, batch_size=batch_size, mixed_precision_dtype=dtype)
    scores = [score for score, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]
    per_row = list(in_slices(scores, len(options.tails)))
    return {
        row.id: eval_set.choices[max(range(len(own)), key=own.__getitem__)]
        for row, own in zip(rows, per_row, strict=True)
    }


def ours(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    eval_set: EvalSet,
    batch_size: int,
    dtype: torch.dtype | None,
) -> Answers:
    """Evaluate as this package does."""
    context = EvalContext(batch_size=batch_size, autocast_dtype=dtype)
    _, predictions = find_method(eval_set.kind).evaluate(model, tokenizer, eval_set, context)
    return {prediction.id: prediction.prediction for prediction in predictions}


@contextmanager
def torch_default_products() -> Iterator[None]:
    """Use torch's default library for fp32 products."""
    previous, PRODUCTS.fp32_precision = PRODUCTS.fp32_precision, "ieee"
    try:
        yield
    finally:
        PRODUCTS.fp32_precision = previous


def timed(run: Callable[[], Answers]) -> tuple[dict[str, float], Answers]:
    wall, processor = time.perf_counter(), time.process_time()
    answers = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    taken = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    return taken, answers


def equal(answers: Answers, others: Answers) -> int:
    """The number of rows with the same answer."""
    return sum(answers[row] == others[row] for row in others)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--task", default="winogrande")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--precision", choices=tuple(AUTOCAST), help="default: the run's")
    arguments = parser.parse_args()

    wanted = arguments.methods
    config = evaluation_config(
        read_config(arguments.run / "config.yaml"),
        tasks=[arguments.task],
        evaluation={"limit": str(arguments.rows)},
        data_root=arguments.data_root,
    )
    precision = arguments.precision or config.trainer.mixed_precision
    device = open_accelerator(device=config.launch.device, mixed_precision=precision).device
    dtype, size = AUTOCAST[precision], config.evaluation.batch_size
    data_root = Path(config.data_root) if config.data_root else None
    (eval_set,) = read_eval_sets(
        config.task, config.dataset, config.evaluation, data_root=data_root
    )
    model, tokenizer = load_adapted(config, arguments.run, device=device)

    def methods() -> Iterator[tuple[str, Callable[[], Answers]]]:
        for name, kind in (("written", "generate"), ("chosen", "choose")):
            if name in wanted and (kind == "generate" or eval_set.choices):
                one = replace(eval_set, kind=kind)
                yield name, lambda one=one: ours(model, tokenizer, one, size, dtype)
        if "harness" in wanted and eval_set.choices and find_spec("lm_eval"):
            yield "harness", lambda: harness(model, tokenizer, eval_set, size, dtype)
        if "decoded" not in wanted:
            return
        yield "decoded", lambda: decoded(model, tokenizer, eval_set, dtype)
        if device.type == "cpu" and PRODUCTS.fp32_precision == "bf16":
            script = torch_default_products()(lambda: decoded(model, tokenizer, eval_set, dtype))
            yield "script", script

    best: dict[str, dict[str, float]] = {}
    answers: dict[str, Answers] = {}
    for _ in range(arguments.rounds):
        for name, method in methods():
            taken, answers[name] = timed(method)
            so_far = best.setdefault(name, taken)
            best[name] = {clock: min(seconds, so_far[clock]) for clock, seconds in taken.items()}
    others = [name for name in ("decoded", "script") if name in best] or ["harness"]
    reference = answers[others[0]]
    least = {clock: min(best[name][clock] for name in others) for clock in best[others[0]]}
    print(
        json.dumps(
            {
                "run": str(arguments.run),
                "task": arguments.task,
                "rows": len(reference),
                "batch_size": size,
                "mixed_precision": precision,
                "threads": torch.get_num_threads(),
                "seconds": best,
                "times_faster": {
                    name: {clock: least[clock] / taken[clock] for clock in taken}
                    for name, taken in best.items()
                },
                "equal": {name: equal(found, reference) for name, found in answers.items()},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
