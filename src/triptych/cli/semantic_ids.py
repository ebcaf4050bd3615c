"""``triptych semantic-ids``: item vectors as short tuples of codes, and how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triptych.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from triptych.data.catalogue import Catalogue
    from triptych.data.splits import Split
    from triptych.foundation.artifact import Artifact
    from triptych.semantic_ids.quality import Quality


def semantic_ids(
    embeddings: Annotated[
        list[Path],
        typer.Argument(help="Embeddings artefact, e.g. runs/shop/embeddings/ID, or vectors.npy; or several."),
    ],
    *,
    config: Annotated[Path | None, typer.Option(help="Config file: quantizer, training, collisions, gate.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: a.b=value, e.g. quantizer.codes=512.")
    ] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="Catalogue artefact of the items (default: the one beside the embeddings).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to (default: semantic_ids/ beside the embeddings).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make semantic IDs of item vectors, and print how good they are; with several embeddings, of each.

    Categories and delivery cells, for the measures that need them, are those of the catalogue. Codebooks are learned as
    the encoder was: where its run has a split, of the items that were there before validation.
    """
    from triptych.foundation.config import read_tree
    from triptych.recipes.run_folder import RUN, RunFolder
    from triptych.semantic_ids.config import SemanticIdsConfig
    from triptych.semantic_ids.fit import run
    from triptych.semantic_ids.stored import SemanticIds

    laid_over = SemanticIdsConfig().merged(read_tree(config) if config else {})
    resolved = laid_over.override(*(settings or ()))
    found = []
    for path in embeddings:
        source = path if path.is_file() else _opened(path)
        folder = out or _beside(source) / "semantic_ids"
        items = _catalogue(source, given=catalogue)
        made = run(resolved, embeddings=source, out=folder, catalogue=items, split=_split(source, catalogue=items))
        found.append(made)
        if made.path.parent.parent == _beside(source) and (_beside(source) / RUN).is_file():
            RunFolder(_beside(source)).keep(made)
        if not as_json:
            print_quality(SemanticIds.open(made).quality, title=f"{path}, {resolved.quantizer.kind}")
            print(f"{made.path}\n")
    if as_json:
        print_json([{"path": made.path, "quality": SemanticIds.open(made).quality.dump()} for made in found])


def _opened(path: Path) -> Artifact:
    """Open an artefact; of a run folder, or its folder of embeddings, say which vectors there are."""
    from triptych.encoders.embeddings import KIND
    from triptych.foundation.artifact import Artifact
    from triptych.foundation.errors import ArtifactError
    from triptych.recipes.run_folder import RUN, RunFolder

    runs = [folder for folder in (path, path.parent) if (folder / RUN).is_file() and path.is_dir()]
    if not runs:
        return Artifact.open(path)
    rows = [row for row in RunFolder.existing(runs[0]).rows() if row["kind"] == KIND]
    there = ", ".join(str(runs[0] / row["artifact"]) + (f" ({row['of']})" if row["of"] else "") for row in rows)
    what = "a run folder" if path == runs[0] else "a folder of a run"
    raise ArtifactError(
        f"{str(path)!r} is {what}, and the artefact of an encoder's item vectors is wanted. "
        + (f"This run has: {there}." if there else "This run has none yet: finish its `triptych run`.")
    )


def _beside(source: Artifact | Path) -> Path:
    """Where the stages of a run lie, or the folder of a file."""
    return source.parent if isinstance(source, Path) else source.path.parent.parent


def _catalogue(source: Artifact | Path, *, given: Path | None) -> Catalogue | None:
    from triptych.data.catalogue import Catalogue

    if given is not None:
        return Catalogue.open(given)
    if isinstance(source, Path):
        return None
    folder = _beside(source) / "catalogue" / source.inputs.get("catalogue", "none")
    return Catalogue.open(folder) if folder.is_dir() else None


def _split(source: Artifact | Path, *, catalogue: Catalogue | None) -> Split | None:
    """Open the split that the encoder of some vectors was trained by; None: by none, or nobody has the encoder."""
    from triptych.data.splits import Split
    from triptych.foundation.artifact import MANIFEST, Artifact

    if isinstance(source, Path) or catalogue is None:
        return None
    encoder = _beside(source) / "encoder" / source.inputs.get("encoder", "none")
    if not (encoder / MANIFEST).is_file():
        return None
    split = Artifact.open(encoder).inputs.get("split")
    return None if split is None else Split.open(_beside(source) / "split" / split)


def print_quality(quality: Quality, *, title: str) -> None:
    """Print how good semantic IDs are; `title` says which they are."""
    from triptych.semantic_ids.quality_table import counts, facts, level_rows

    levels = level_rows(quality)
    print_table(levels, title=f"{title}: {counts(quality)}", right=frozenset(levels[0]))
    print_table([{"measure": name, "value": value} for name, value in facts(quality).items()])
