"""``toplora-inspect``: measure a saved adapter, a run's or one of PEFT's own, without training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from toplora_train.adapters.attach import kernel_of
from toplora_train.adapters.saving import load_adapter
from toplora_train.adapters.updates import compare_updates, decompositions
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import ModelSettings, RunConfig
from toplora_train.models.load import load_model, load_tokenizer
from toplora_train.report.pages import rewrite_pages, write_inspection_page
from toplora_train.report.record import completed_report
from toplora_train.run.assemble.inspection import Text, general_texts, inspect_adapter, run_texts
from toplora_train.run.evaluate import open_run
from toplora_train.run.fit.best_checkpoint import fingerprint
from toplora_train.run.platform.console import open_console
from toplora_train.run.platform.device import open_accelerator
from toplora_train.run.prepare.adapted_model import load_adapted
from toplora_train.run.prepare.eval_sets import match_training_form, read_eval_sets
from toplora_train.run.prepare.objective import locate_base


def inspect_run(config: RunConfig, run_dir: Path, *, text: str | None, extras: bool) -> Path:
    """Measure a run's adapter and write its pages anew; return the path of ``report.html``.

    Args:
        config: The run's configuration, with the device to use.
        run_dir: A finished run.
        text: A text to show the gates of, besides those of the tasks.
        extras: Whether to measure what takes long, see
            :class:`toplora_train.config.schema.ReportSettings`.

    Raises:
        UserError: The run is not finished, its base model or test rows are not available, or a text
            is given for a model of images.
    """
    report = completed_report(run_dir)
    accelerator = open_accelerator(config.launch.device, config.trainer.mixed_precision)
    wording = report["data"]["wording"]
    if text is not None and wording == "images":
        raise UserError("text=... shows the gates of a text, but this run's model takes images")
    tasks = config.task if extras else {}
    eval_sets = [
        match_training_form(eval_set, wording)
        for eval_set in read_eval_sets(
            tasks, config.dataset, config.evaluation, data_root=config.mirror
        )
        if eval_set.name in report["tasks"]
    ]
    opened = open_run(config, run_dir, eval_sets, run_dir / "predictions", accelerator)
    kernel = kernel_of(config.adapter)
    adapted = load_adapter(opened.model, run_dir / "adapter", kernel=kernel)
    inspect_adapter(
        adapted.to(accelerator.device).eval(),
        opened.scorer.tokenizer,
        [*_own(text), *run_texts(run_dir, list(report["tasks"]))],
        run_dir,
        base=report["model"]["path"],
        extras=extras,
        scorer=opened.scorer,
        weights=fingerprint(adapted),  # as in the run, whose answers with fixed gates are reused
    )
    return rewrite_pages(run_dir)


def inspect_folder(
    adapter: Path, output: Path, base: ModelSettings, *, text: str | None, extras: bool, device: str
) -> Path:
    """Measure an adapter that PEFT saved; return the path of the page in ``output``.

    Args:
        adapter: The folder with ``adapter_config.json``.
        output: The folder for the files.
        base: The adapter's base model, a causal language model.
        text: A text to show the gates of.
        extras: Whether to decompose matrices of the weights' size.
        device: Where to compute.

    Raises:
        UserError: The base model is not available, or the adapter does not fit it.
    """
    open_console()
    model, tokenizer = _load_folder(adapter, base, device)
    texts = [*_own(text), *general_texts()]
    inspect_adapter(model, tokenizer, texts, output, base=base.path or base.name, extras=extras)
    return write_inspection_page(output)


def compare_adapters(runs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The principal angles between the updates of each two runs.

    Args:
        runs: Finished runs by name.

    Returns:
        ``first``, ``second`` and ``modules`` (:func:`compare_updates`) of each pair.

    Raises:
        UserError: Two runs have different base models, or one cannot be loaded.
    """
    bases = {name: completed_report(folder)["model"] for name, folder in runs.items()}
    first = next(iter(bases))
    for name, base in bases.items():
        if any(base.get(key) != bases[first].get(key) for key in ("path", "sha256")):
            raise UserError(
                f"angles=true: {runs[first]} and {runs[name]} have different base models "
                f"({bases[first]['path']} and {base['path']}), so their updates are not comparable"
            )
    open_console()
    found = {}
    for name, folder in runs.items():
        model, _ = load_adapted(read_config(folder / "config.yaml"), folder)
        found[name] = decompositions(model)
    return [
        {"first": one, "second": other, "modules": compare_updates(found[one], found[other])}
        for one, other in combinations(found, 2)
    ]


def _own(text: str | None) -> list[Text]:
    return [] if text is None else [Text("your text", text, own=True)]


def _load_folder(
    adapter: Path, base: ModelSettings, device: str
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    accelerator = open_accelerator(device, "no")
    location = locate_base(base)
    load_adapter(load_model(location, dtype=base.dtype, meta=True), adapter)
    model = load_adapter(load_model(location, dtype=base.dtype), adapter)
    return model.to(accelerator.device).eval(), load_tokenizer(location)
