"""The front door, ``toplora`` or ``python -m toplora_train``: every command by its name."""

from __future__ import annotations

import sys
from importlib import import_module

from rich.console import Console
from rich.markup import escape

from toplora_train.config.suggest import not_found

COMMANDS = {
    "train": ("toplora_train.cli", "fine-tune a model and evaluate it; alone, the demo"),
    "eval": ("toplora_train.launch.evaluate", "evaluate a run's adapter again or on other tasks"),
    "generate": ("toplora_train.launch.generate", "chat with a run's model, or answer a file"),
    "report": ("toplora_train.launch.compare", "compare runs: scores, costs, paired tests"),
    "inspect": ("toplora_train.launch.inspect", "look into an adapter: updates by layer, gates"),
    "fuse": ("toplora_train.launch.fuse", "one model of several runs: LoRA-Flow, TIES, DARE"),
    "export": ("toplora_train.launch.export", "a plain LoRA, merged weights, or the hub"),
    "check-adapter": ("toplora_train.launch.check_adapter", "check an adapter of one's own"),
    "cache": ("toplora_train.launch.cache", "show or clear the cache"),
    "completion": ("toplora_train.launch.completion", "completion of all commands in a shell"),
}
"""Each command's module, whose ``main`` reads ``sys.argv``, and what it does."""
USER_ERROR = 2


def main() -> int:
    """``toplora COMMAND ...``: returns the command's exit code.

    Words that begin with no command are for ``toplora-train``.
    """
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        _show_commands()
        return 0
    if words[0] in COMMANDS:
        name, words = words[0], words[1:]
    elif "=" in words[0] or words[0].startswith("-"):
        name = "train"
    else:
        print(f"error: {not_found('command', words[0], COMMANDS)}", file=sys.stderr)
        return USER_ERROR
    sys.argv = [f"toplora-{name}", *words]
    code: int = import_module(COMMANDS[name][0]).main()
    return code


def _show_commands() -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]toplora-train[/bold]: low-rank fine-tuning with honest evaluation.\n")
    for name, (_, purpose) in COMMANDS.items():
        console.print(f"  [green]toplora {name:<14}[/green] {escape(purpose)}")
    console.print(
        "\nEach is also a command of its own, toplora-train, toplora-eval, ...; toplora COMMAND "
        "--help says more.\nCompletion of all of them: "
        + escape('eval "$(toplora completion bash)"')
        + " in ~/.bashrc (or zsh in ~/.zshrc)"
    )


if __name__ == "__main__":
    sys.exit(main())
