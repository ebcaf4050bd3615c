"""What the backends over faiss share: its files, and filters whose memory outlives the search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.foundation.errors import ArtifactError


def read_structure(path: Path) -> Any:
    """Read a faiss index into memory.

    Raises:
        ArtifactError: the file is none, or damaged.
    """
    import faiss

    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{str(path)!r} cannot be read ({reason}). Build the index again: triptych run.") from None


def write_structure(index: Any, path: Path) -> None:
    """Write a faiss index so that a reader sees the old file or the new one, never half of it."""
    import faiss

    partial = path.with_name(path.name + ".partial")
    faiss.write_index(index, str(partial))
    partial.replace(path)


@contextmanager
def selector(kept: NDArray[np.bool_] | None) -> Iterator[Any]:
    """Give faiss's form of a filter, valid inside the ``with``.

    faiss holds bare pointers, to the selector and from it to the bits; outside they may point to freed memory.

    Args:
        kept: ``[rows]``; None gives None.
    """
    if kept is None:
        yield None
        return
    import faiss

    bits = np.packbits(kept, bitorder="little")
    made = faiss.IDSelectorBitmap(bits)
    yield made
    del made, bits  # named here so that they live until here
