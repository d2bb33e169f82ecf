"""The page that ``toplora-train --help`` prints, built from the option files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toplora_train.config.locate import description, groups, options

EXAMPLES = (
    ("toplora-train", "the demo: a small pretrained model on a CPU, in minutes"),
    ("toplora-train recipe=smoke", "the whole pipeline in seconds, without downloads"),
    ("toplora-train recipe=llama3_commonsense adapter=toplora", "a published experiment"),
    ("toplora-train -m adapter=lora,toplora adapter.r=4,8 seed=1,2", "a sweep: every combination"),
    (
        "toplora-train study=lr_per_adapter recipe=minilm_glue task=[mrpc] adapter=lora,toplora",
        "a study: both adapters tuned equally, then compared; with or without -m",
    ),
    ("toplora-train dataset=jsonl dataset.train=a.jsonl dataset.test=b.jsonl", "your own rows"),
)
FLAGS = (
    (
        "plan=true",
        "show settings, parameters and memory without training, then stop",
    ),
    ("plan=true plan_for=a100-80g", "the same for another device"),
    ("prefetch=true", "download the rows and the model for offline use, then stop"),
    ("resume=auto output_dir=DIR", "resume from the newest checkpoint in DIR"),
    ("resume=extend output_dir=DIR", "train the finished run in DIR for longer: trainer.epochs=N"),
    ("adapter.start_from=RUN", "initialize from the adapter of a run, a folder or the hub"),
    ("--cfg job", "print the resolved configuration"),
    ("-m, --multirun", "run every combination of comma-separated values"),
    ("--config-dir DIR", "your own options: DIR/recipe/mine.yaml, DIR/adapter/mine.yaml, ..."),
    ("--hydra-help", "Hydra's own flags"),
    ("--version", "print the version"),
)
EXIT_CODES = (
    ("0", "success"),
    ("1", "failure; the traceback is in train.log"),
    ("2", "an error in the input, described in one line"),
    ("130, 143", "interrupted (Ctrl-C, SIGTERM), after a checkpoint"),
)


def show_help(console: Console) -> None:
    """Print the page."""
    console.print(
        "[bold]toplora-train[/bold] fine-tunes a model with a low-rank adapter, evaluates it "
        "before and after, and writes the adapter with a report of the run and its results."
    )
    _heading(console, "Usage")
    console.print(escape("  toplora-train [FLAGS] [GROUP=OPTION ...] [KEY=VALUE ...]"))
    console.print("  The command line overrides the recipe, the recipe overrides the options.")
    _heading(console, "Examples")
    for command, meaning in EXAMPLES:
        console.print(f"  [green]{escape(command)}[/green]\n      {meaning}", soft_wrap=True)
    _heading(console, "Groups and their options")
    for group in groups():
        console.print(f"  [cyan]{group}=[/cyan]")
        console.print(_rows([(o.name, description(o.path)) for o in options(group).values()], 4))
    _heading(console, "More")
    console.print(_rows(FLAGS, 2))
    _heading(console, "Exit codes")
    console.print(_rows(EXIT_CODES, 2))


def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("toplora-train")
    except PackageNotFoundError:
        return "(not installed: run from a checkout)"


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _rows(rows: Sequence[tuple[str, str]], indent: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, style="green", min_width=24 + 2 - indent)
    table.add_column()
    for name, text in rows:
        table.add_row(f"{' ' * indent}{escape(name)}", escape(text))
    return table
