"""A run's adapter asked tasks of EleutherAI's lm-evaluation-harness, through its own API.

The harness words, decodes and scores as its task files say, so its numbers are compared with other
numbers of the harness, never with this package's. It is an extra: ``toplora-train[lm-eval]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.config.suggest import hint, nearest_name
from toplora_train.report.json_file import plain_json, write_json_atomically
from toplora_train.run.assemble.evaluation_folder import finished_report, open_folder
from toplora_train.run.platform.device import AUTOCAST, open_accelerator
from toplora_train.run.prepare.adapted_model import load_adapted

RESULTS = "harness.json"


def ask_harness(
    config: RunConfig,
    run_dir: Path,
    tasks: Sequence[str],
    *,
    name: str,
    limit: int | None,
    own: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Ask a finished run's adapter, and its base model if the configuration says so.

    Args:
        config: The run's configuration; ``evaluation.batch_size`` and ``evaluation.base`` count.
        run_dir: The run.
        tasks: Names of the harness' tasks or groups.
        name: The evaluation's folder below ``run_dir/evaluations``.
        limit: Rows of each task, None for all.
        own: A folder with task files of the user's, in the harness' format.

    Returns:
        The file ``harness.json`` and what is in it: ``tuned`` and ``base``, each the harness'
        metrics with their standard errors by task, ``versions`` of the tasks, and ``lm_eval``.

    Raises:
        UserError: the harness is not installed, knows no such task or cannot get its rows, or the
            run has no finished language model.
    """
    if find_spec("lm_eval") is None:
        raise UserError("harness= needs the lm-eval extra; pip install 'toplora-train[lm-eval]'")
    from lm_eval import __version__, simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    finished_report(run_dir)
    if (task := head_task(config)) is not None:
        raise UserError(f"harness= asks language models; this run trained a head for {task.name}")
    file = open_folder(run_dir, name) / RESULTS
    if file.exists():
        raise UserError(f"{file} is there already; give this evaluation another name=NAME")
    manager = TaskManager(include_path=str(own) if own else None)
    for asked in tasks:
        if asked not in manager.all_tasks:
            guess = nearest_name(asked, manager.all_tasks)
            raise UserError(f"the harness has no task '{asked}'{hint(guess)} see its list of tasks")

    precision = config.trainer.mixed_precision
    device = open_accelerator(device=config.launch.device, mixed_precision=precision).device
    model, tokenizer = load_adapted(config, run_dir, device=device)

    def ask() -> dict[str, Any]:
        size = config.evaluation.batch_size
        lm = HFLM(model, tokenizer=tokenizer, batch_size=size, mixed_precision_dtype=autocast)
        found: dict[str, Any] = simple_evaluate(
            lm, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False
        )
        return found

    autocast = AUTOCAST[precision]
    try:
        tuned = ask()
        base = None
        if config.evaluation.base:
            with model.disable_adapter():
                base = ask()["results"]
    except OSError as error:
        raise UserError(
            f"the harness could not get the rows of {', '.join(tasks)}: {error}"
        ) from error
    found = {"tuned": tuned["results"], "base": base, "versions": tuned["versions"]}
    document: dict[str, Any] = plain_json(found | {"limit": limit, "lm_eval": __version__})
    write_json_atomically(file, document)
    return file, document
