"""``prefetch=true``: download what a run reads, so that it can start offline."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.run.prepare.inputs import fetch_model, find_rows
from toplora_train.train.signals import interrupt_at_once


def run(config: RunConfig, *, weights: bool = True) -> None:
    """Download the rows and the model, and print where each is stored.

    Args:
        config: The run.
        weights: Whether to fetch the model's weights, not only its configuration and tokenizer.

    Raises:
        UserError: Something could not be fetched; the reasons were printed.
    """
    interrupt_at_once()
    console = Console(soft_wrap=True, highlight=False)
    wanted: list[tuple[str, Callable[[], object]]] = [
        (f"{rows.use}, {rows.where.name}", rows.fetch_place) for rows in find_rows(config)
    ]
    name = config.model.path or config.model.name
    wanted.append((f"model, {name}", lambda: fetch_model(config.model, weights=weights)))
    failed = 0
    for what, fetch in wanted:
        try:
            place = fetch()
        except UserError as error:
            failed += 1
            console.print(f"{what}: not fetched: {error}", style="red", markup=False)
        else:
            console.print(f"{what}: {place or 'in the hub cache'}", markup=False)
    if failed:
        raise UserError(f"{failed} of {len(wanted)} could not be fetched; see above")
