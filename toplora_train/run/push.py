"""``toplora-export push=owner/name``: upload a run's adapter, model card and report to the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: its library's
    HFValidationError,
    HTTPError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # missing in its stubs

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.reading import read_text
from toplora_train.report.card import FOLDER
from toplora_train.report.record import completed_report
from toplora_train.run.prepare.adapted_model import validate_own_adapter

REPORTS = ("report.html", "report.md", "report.json")


def files_to_push(run_dir: Path, repo: str, *, report: bool) -> dict[str, Path | bytes]:
    """What goes to the repository, by its path there: a file, or the text of the model card.

    Args:
        run_dir: A finished run.
        repo: The repository, ``owner/name``; the card's code loads the adapter from it.
        report: Whether the report's pages go along.

    Raises:
        UserError: The run is not finished, its adapter is not its own, or ``repo`` is no name.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"push={repo}: {str(error).splitlines()[0]}") from error
    if repo.count("/") != 1:
        raise UserError(f"push={repo} is no repository of the hub; give owner/name")
    completed_report(run_dir)
    validate_own_adapter(run_dir, None)
    adapter = run_dir / "adapter"
    found: dict[str, Path | bytes] = {
        path.name: path for path in sorted(adapter.iterdir()) if path.is_file()
    }
    card = adapter / "README.md"
    found[card.name] = read_text(card).replace(FOLDER, repo).encode()
    if report:
        found |= {name: run_dir / name for name in REPORTS if (run_dir / name).is_file()}
        figures = sorted((run_dir / "figures").glob("*"))
        found |= {f"figures/{path.name}": path for path in figures}
    return found


def names_folders(files: Mapping[str, Path | bytes]) -> list[str]:
    """The text files among them that name the user's home folder."""
    home = str(Path.home()).encode()
    return [
        name
        for name, file in files.items()
        if name.endswith((".json", ".md", ".html"))
        and home + b"/" in (file if isinstance(file, bytes) else file.read_bytes())
    ]


def push(
    files: Mapping[str, Path | bytes], repo: str, *, private: bool, endpoint: str | None = None
) -> str:
    """Create the repository if it does not exist, and upload the files in one commit.

    Args:
        files: What :func:`files_to_push` returned.
        repo: The repository, ``owner/name``.
        private: Whether a new repository is private.
        endpoint: The hub; None: ``HF_ENDPOINT``.

    Returns:
        The address of the commit.

    Raises:
        UserError: There is no token.
        RunFailure: The hub cannot be reached, or refuses.
    """
    if get_token() is None:
        raise UserError(
            "no token for the hub; log in with `hf auth login`, or set HF_TOKEN (dry_run=true "
            "lists the files without one)"
        )
    api = HfApi(endpoint=endpoint)
    added = [CommitOperationAdd(name, file) for name, file in files.items()]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(repo, added, commit_message="Adapter, model card and report")
    except (HTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunFailure(f"push={repo}: nothing was uploaded ({reason})") from error
    return commit.commit_url
