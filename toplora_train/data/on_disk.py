"""Sequences that are not in memory: items kept on disk, and a selection of another sequence's."""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, TypeVar, overload

from toplora_train.config.errors import UserError
from toplora_train.config.folders import cache_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

Item = TypeVar("Item", covariant=True)


class Lazy(Sequence[Item]):
    """A sequence that makes an item when it is read; a slice is a :class:`Selected`."""

    def item(self, index: int) -> Item:
        """The item at ``index``, which is at least 0 and less than the length."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        whole = range(len(self))
        chosen = whole[index]
        if isinstance(chosen, int):
            return self.item(chosen)
        return self if chosen == whole else Selected(self, chosen)

    def __iter__(self) -> Iterator[Item]:
        return map(self.item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list's


class OnDisk(Lazy[Item]):
    """Items in an unnamed file, which vanishes with the process; in memory are their positions.

    The file is in the cache folder, else in the temporary folder, which may itself be in memory.

    Raises:
        UserError: There is no room for them.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._ends = array("q", [0])
        try:
            self._file = _unnamed_file()
        except OSError as error:
            raise _no_room(error) from None
        weakref.finalize(self, self._file.close)
        for item in items:
            self._add(item)
        self._write(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return OnDisk, (list(self),)

    def append(self, item: Any) -> None:
        """Keep one more item; for one process alone, as forks share the file's position."""
        self._add(item)
        self._write(None)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def item(self, index: int) -> Item:  # noqa: D102  (Lazy's)
        start, end = self._ends[index], self._ends[index + 1]
        # Only this process has ever had the file.
        found: Item = pickle.loads(os.pread(self._file.fileno(), end - start, start))
        return found

    def _add(self, item: Any) -> None:
        content = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        self._write(content)
        self._ends.append(self._ends[-1] + len(content))

    def _write(self, content: bytes | None) -> None:
        try:
            self._file.flush() if content is None else self._file.write(content)
        except OSError as error:
            raise _no_room(error) from None


class Selected(Lazy[Item]):
    """The items of a sequence at some of its indices."""

    def __init__(self, items: Sequence[Item], indices: Sequence[int] | NDArray[Any]) -> None:
        self._items, self._indices = items, indices

    def __len__(self) -> int:
        return len(self._indices)

    def item(self, index: int) -> Item:  # noqa: D102  (Lazy's)
        return self._items[int(self._indices[index])]


def _unnamed_file() -> IO[Any]:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()


def _no_room(error: OSError) -> UserError:
    return UserError(
        f"the rows cannot be kept in {cache_folder()} ({error.strerror}); make room there, or set "
        "TOPLORA_CACHE to a folder on another disk"
    )
