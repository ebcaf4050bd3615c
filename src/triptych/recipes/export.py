"""The export of a run's ranker, as graphs that others serve."""

from __future__ import annotations

from pathlib import Path

from triptych.data.catalogue import Catalogue
from triptych.encoders.embed import Embedder
from triptych.engine.bundle import open_bundle
from triptych.engine.ranking import open_ranker
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ArtifactError
from triptych.index.base import open_index
from triptych.ranker.export import KIND, export_ranker
from triptych.recipes.run_folder import RunFolder


def export_run(run: Path, *, out: Path | None = None) -> Artifact:
    """Write the ranker that a finished run serves as ONNX graphs (`ranker.export`).

    Args:
        run: its folder.
        out: where to; None: into the run's own folder, where `triptych artifacts prune` leaves it as long as the run
            has that ranker.

    Raises:
        ArtifactError: there is no finished run, or it has no ranker.
        MissingExtra: the ``export`` extra is not installed.
    """
    parts = open_bundle(run)[1]
    if parts.ranker is None:
        raise ArtifactError(f"The run in {str(run)!r} has no ranker to export. Run it with [ranker] set.")
    catalogue = Catalogue.open(parts.catalogue)
    ranker = open_ranker(
        parts, catalogue=catalogue, index=open_index(parts.index), embedder=Embedder.open(parts.encoder)
    )
    made = export_ranker(ranker, artifact=parts.ranker, catalogue=catalogue, out=out or run / KIND)
    if out is None:
        RunFolder.existing(run).keep(made)
    return made
