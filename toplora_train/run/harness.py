"""Evaluate a run's adapter on tasks of EleutherAI's lm-evaluation-harness, through its API.

The harness prompts, decodes and scores by its own task files, so its numbers compare only with
other numbers of the harness, not with this package's. Needs the extra ``toplora-train[lm-eval]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import plain_json, write_json_atomically
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.config.suggest import hint, nearest_name
from toplora_train.report.record import completed_report
from toplora_train.run.assemble.evaluation_folder import open_folder
from toplora_train.run.platform.device import AUTOCAST, open_accelerator
from toplora_train.run.prepare.adapted_model import load_adapted, validate_base_intact

RESULTS = "harness.json"


def evaluate_harness(
    config: RunConfig,
    run_dir: Path,
    tasks: Sequence[str],
    *,
    name: str,
    limit: int | None,
    own: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Evaluate a finished run's adapter, and its base model if ``evaluation.base``.

    Args:
        config: The run's configuration; uses ``evaluation.batch_size`` and ``evaluation.base``.
        run_dir: The run.
        tasks: Names of the harness's tasks or groups.
        name: The evaluation's folder below ``run_dir/evaluations``.
        limit: Rows per task, None for all.
        own: A folder with the user's task files, in the harness's format.

    Returns:
        The file ``harness.json`` and its content: ``tuned`` and ``base``, each the harness's
        metrics with their standard errors by task, ``versions`` of the tasks, and ``lm_eval``.

    Raises:
        UserError: The harness is not installed, does not know a task or cannot get its rows, or the
            run has no finished language model.
    """
    if find_spec("lm_eval") is None:
        raise UserError("harness= needs the lm-eval extra; pip install 'toplora-train[lm-eval]'")
    from lm_eval import __version__, simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    completed_report(run_dir)
    if (task := head_task(config)) is not None:
        raise UserError(f"harness= is for language models; this run has a head for {task.name}")
    if config.evaluation.base:
        validate_base_intact(run_dir)
    file = open_folder(run_dir, name) / RESULTS
    if file.exists():
        raise UserError(f"{file} already exists; choose another name=NAME")
    manager = TaskManager(include_path=str(own) if own else None)
    for wanted in tasks:
        if wanted not in manager.all_tasks:
            guess = nearest_name(wanted, manager.all_tasks)
            raise UserError(
                f"the harness has no task '{wanted}'{hint(guess)} see its list of tasks"
            )

    precision = config.trainer.mixed_precision
    device = open_accelerator(config.launch.device, precision).device
    model, tokenizer = load_adapted(config, run_dir, device=device)

    def run_tasks() -> dict[str, Any]:
        size = config.evaluation.batch_size
        lm = HFLM(model, tokenizer=tokenizer, batch_size=size, mixed_precision_dtype=autocast)
        found: dict[str, Any] = simple_evaluate(
            lm, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False
        )
        return found

    autocast = AUTOCAST[precision]
    try:
        tuned = run_tasks()
        base = None
        if config.evaluation.base:
            with model.disable_adapter():
                base = run_tasks()["results"]
    except OSError as error:
        raise UserError(
            f"the harness could not get the rows of {', '.join(tasks)}: {error}"
        ) from error
    found = {"tuned": tuned["results"], "base": base, "versions": tuned["versions"]}
    document: dict[str, Any] = plain_json(found | {"limit": limit, "lm_eval": __version__})
    write_json_atomically(file, document)
    return file, document
