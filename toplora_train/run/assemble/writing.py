"""What a run leaves behind: the adapter's folder, its card, the pages and the report."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from toplora_train.adapters.saving import save_adapter
from toplora_train.config.aside import rescue
from toplora_train.config.errors import RunFailure
from toplora_train.config.folders import checkpoint_folders
from toplora_train.config.json_file import write_text_atomically
from toplora_train.config.schema import RunConfig
from toplora_train.report.card import model_card
from toplora_train.report.card_metadata import Facts
from toplora_train.report.pages import write_pages
from toplora_train.report.record import Report, write_report
from toplora_train.run.prepare.encoding import learned_prompt
from toplora_train.run.prepare.run_data import RunData


def save_adapter_folder(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the adapter and its tokenizer.

    Raises:
        RunFailure: They could not be written; says where they are kept instead.
    """

    def write(where: Path) -> None:
        if where.is_file():
            raise NotADirectoryError("a file is in its place")
        save_adapter(model, where)
        tokenizer.save_pretrained(where)

    try:
        write(folder)
    except (OSError, RunFailure) as error:
        kept = rescue(write, "adapter")
        saved = checkpoint_folders(folder.parent / "checkpoints")
        last = f"; so has {saved[-1]}" if saved else ""
        raise RunFailure(
            f"the adapter could not be written to {folder} ({error}); {kept}{last}: make {folder} "
            "a writable folder, then continue with resume=auto"
        ) from error


def write_everything(report: Report, config: RunConfig, run_data: RunData, run_dir: Path) -> None:
    """Model card, pages, and last ``report.json``, whose presence says that the run is finished."""
    document = report.to_dict()
    head = run_data.objective.head
    card = model_card(
        document,
        prompt=learned_prompt(
            report.protocol,
            run_data.tokenizer,
            chat=run_data.wording == "chat",
            template=report.data.prompt,
        )
        if head is None and run_data.wording != "text"
        else None,
        labels=head.labels if head is not None else (),
        facts=Facts.of(config),
    )
    try:
        write_text_atomically(run_dir / "adapter" / "README.md", card)
        write_pages(run_dir, document)
        write_report(run_dir / "report.json", report)
    except OSError as error:
        raise RunFailure(
            f"the report could not be written to {run_dir} ({error}); the adapter is saved in "
            f"{run_dir / 'adapter'}: make room there, then continue with resume=auto"
        ) from error
