"""The commands as functions: ``train``, ``evaluate``, ``compare`` and ``load``.

They run the commands' own code on the same configuration, so the same settings give the same files.
Errors are exceptions: :class:`UserError` for what is wrong in the input (exit code 2 of a command),
``RunFailure`` for a run that failed (1), ``KeyboardInterrupt`` for one that was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.keywords import compose_run, override_words
from toplora_train.config.plugins import load_plugins, needed_to_use
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import RunConfig
from toplora_train.report.metrics_file import read_metrics
from toplora_train.report.record import read_report

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

__all__ = ["Run", "RunFailure", "UserError", "compare", "evaluate", "load", "train"]

Folder = str | Path


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        folder: The directory, the one with ``report.json``.
    """

    folder: Path

    @property
    def adapter(self) -> Path:
        """The folder of the saved adapter, in PEFT's format."""
        return self.folder / "adapter"

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return read_config(self.folder / "config.yaml")

    @property
    def report(self) -> dict[str, Any]:
        """The content of ``report.json``: scores with intervals, costs, checks."""
        return read_report(self.folder / "report.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: loss, learning rate and speed by step."""
        return list(read_metrics(self.folder / "metrics.jsonl"))


def train(
    *,
    recipe: str | None = None,
    adapter: str | Mapping[str, Any] | None = None,
    config_dir: Folder | None = None,
    **settings: Any,
) -> Run:
    """Train an adapter as ``toplora-train`` does, in a process of its own.

    Args:
        recipe: A recipe's name.
        adapter: An adapter's name, or its settings with its ``name``: ``{"name": "toplora",
            "r": 4}``.
        config_dir: A folder with option files and modules of one's own.
        **settings: Any other group or key: ``model="tiny"``, ``trainer={"max_steps": 5}``,
            ``task=["boolq"]``, ``seed=2``, ``output_dir="runs/mine"``.

    Returns:
        The finished run.

    Raises:
        UserError: A setting or the data is invalid.
        RunFailure: The run failed.
    """
    from toplora_train.launch.parent import run_job

    given = {"recipe": recipe, "adapter": adapter}
    words = override_words({key: v for key, v in given.items() if v is not None} | settings)
    config = compose_run(words, _own(config_dir))
    if not config.trains:
        raise UserError("plan and prefetch do not train; use the command toplora-train")
    result = run_job(config)
    if result.exit_code > 128:
        raise KeyboardInterrupt(result.error)
    if result.exit_code:
        kind = UserError if result.exit_code == 2 else RunFailure
        raise kind(result.error or f"the run failed; see {result.run_dir / 'train.log'}")
    return Run(result.run_dir)


def evaluate(run: Run | Folder, **settings: Any) -> dict[str, Any]:
    """Evaluate a run's adapter again or on other tasks, as ``toplora-eval`` does.

    Args:
        run: The run.
        **settings: The keys of ``toplora-eval``: ``task=["gsm8k"]``, ``limit=100``,
            ``base=False``, ``config_dir="mine"``, ...

    Returns:
        The evaluation's report, with the scores under ``tasks``. It is also written to
        ``RUN/evaluations/NAME``.

    Raises:
        UserError: A setting is invalid, or the run cannot be evaluated so.
    """
    from toplora_train.launch.command import signals_restored
    from toplora_train.launch.evaluate import evaluate_words

    if "processes" in settings:
        raise UserError("processes is for the command toplora-eval; here one process evaluates")
    given = {key: v for key, v in settings.items() if v is not None or key == "limit"}
    words = [f"run={_folder(run)}", *(f"{key}={_word(v)}" for key, v in given.items())]
    with signals_restored():
        done = evaluate_words(words)
    return dict(done.report)


def compare(
    *runs: Run | Folder,
    baseline: str | None = None,
    gain: float = 1.0,
    output: Folder = "comparison",
    config_dir: Folder | None = None,
) -> dict[str, Any]:
    """Compare finished runs, as ``toplora-report`` does.

    Args:
        *runs: Runs, later evaluations, or folders of runs.
        baseline: The method to compare all others with; by default all pairs are compared.
        gain: Report how many seeds would detect a true difference of this many percentage points.
        output: The folder for the pages and tables.
        config_dir: The folder with the metrics of one's own that the runs use.

    Returns:
        The comparison: the content of ``comparison.json``.

    Raises:
        UserError: The runs cannot be compared.
    """
    from toplora_train.launch.compare import compare_folders

    folders = [_folder(run) for run in runs]
    return compare_folders(
        folders, baseline=baseline, gain=gain / 100, output=Path(output), own=_own(config_dir)
    )


def load(
    run: Run | Folder,
    *,
    device: str = "cpu",
    config_dir: Folder | None = None,
    trust_remote_code: bool = False,
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load a run's model with its adapter, and its tokenizer.

    Args:
        run: A finished run.
        device: Where to put the model.
        config_dir: The folder with the modules of one's own that the run uses.
        trust_remote_code: Whether the base model's own Python code may run.

    Raises:
        UserError: The base model is not available, or the adapter is not the run's own.
    """
    from toplora_train.run.prepare.adapted_model import load_adapted

    folder = _folder(run)
    config = read_config(folder / "config.yaml")
    load_plugins(needed_to_use(config.plugins), _own(config_dir))
    model = replace(config.model, trust_remote_code=trust_remote_code)
    return load_adapted(replace(config, model=model), folder, device=device)


def _folder(run: Run | Folder) -> Path:
    return run.folder if isinstance(run, Run) else Path(run)


def _own(config_dir: Folder | None) -> Sequence[Path]:
    if config_dir is None:
        return ()
    if not Path(config_dir).is_dir():
        raise UserError(f"config_dir={config_dir}: there is no such folder")
    return (Path(config_dir),)


def _word(value: object) -> str:
    """A value as the small commands take it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"[{','.join(str(entry) for entry in value)}]"
    return str(value)
