"""Splits: train, validation and test of a catalogue, cut as `cuts` says, and what has to be found in each.

By default the parts are three runs of the events sorted by time: nobody's later events can train a model that is tested
on earlier ones, since each part ends before the next begins. For search, the targets of a part are the article's
next-day sets: all that anybody chose under a query in that part, merged; of judged data, the query's relevant items.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.cuts import DAY_US, PARTS, SplitBy, SplitConfig, cut, cut_queries, cut_within_users, instant
from triptych.data.events import is_positive
from triptych.data.schema import PART, Part
from triptych.data.targets import (
    CellTargets,
    HistoryFrom,
    Targets,
    TrainPairs,
    UserItems,
    UserTargets,
    count_pairs,
    make_user_targets,
    merge_cell_targets,
    merge_targets,
    ragged,
    user_items,
)
from triptych.foundation.artifact import Artifact, produce, write_json
from triptych.foundation.errors import DataError

__all__ = [
    "DAY_US",
    "Part",
    "Places",
    "Split",
    "SplitBy",
    "SplitConfig",
    "Targets",
    "TrainPairs",
    "build",
    "count_pairs",
    "cut",
    "merge_targets",
]

KIND = "split"
RUNS, EVENT_PARTS, QUERY_PARTS = "parts.json", "event_parts.npy", "query_parts.npy"

Places = slice | NDArray[np.int64]
"""Places among a catalogue's events: a run, or one by one in ascending order. Both index an array."""

CAUTIONS = {
    SplitBy.USER: "Split within each user: other users' later events are in training.",
    SplitBy.GIVEN: "Split as the events table brings it: later events may be in training.",
}
"""What a reader of any number of a split has to know; nothing where it is cut by time for all, or by query."""


class Split:
    """Three parts of a catalogue's events or judged queries, and the target sets of the last two."""

    def __init__(self, artifact: Artifact) -> None:
        """Wrap the artefact; use `open`."""
        self.artifact = artifact
        self.config = SplitConfig.parse(artifact.config)
        self._parts: dict[Part, Places]
        if RUNS in artifact.manifest["files"]:
            bounds = json.loads(artifact.file(RUNS).read_text(encoding="utf-8"))
            self._parts = {part: slice(*bounds[part]) for part in Part}
        elif EVENT_PARTS in artifact.manifest["files"]:
            codes = _load(artifact.file(EVENT_PARTS))
            self._parts = {part: np.flatnonzero(codes == code) for code, part in enumerate(PARTS)}
        else:
            self._parts = dict.fromkeys(PARTS, slice(0, 0))

    @classmethod
    def open(cls, source: Artifact | str | Path) -> Split:
        """Open a split artefact.

        Raises:
            ArtifactError: there is none, or it is something else.
        """
        return cls(Artifact.open(source.path if isinstance(source, Artifact) else source, kind=KIND))

    def part(self, part: Part) -> Places:
        """Return the places of a part among the catalogue's events."""
        return self._parts[part]

    @property
    def train(self) -> Places:
        """Places of the training events."""
        return self._parts[Part.TRAIN]

    @property
    def validation(self) -> Places:
        """Places of the validation events."""
        return self._parts[Part.VALIDATION]

    @property
    def test(self) -> Places:
        """Places of the test events."""
        return self._parts[Part.TEST]

    @property
    def caution(self) -> str:
        """What has to be said beside every number: a sentence, or ""."""
        return CAUTIONS.get(self.config.by, "")

    def targets(self, part: Part) -> Targets:
        """Return the merged target sets of validation or test; empty where no search led to a choice."""
        arrays = (_load(self.artifact.file(f"{part}_{name}.npy")) for name in Targets._fields)
        return Targets(*arrays)

    def cell_targets(self, catalogue: Catalogue, part: Part) -> CellTargets:
        """Return the target sets of each query in each delivery cell; empty where no search led to a choice in one.

        Args:
            catalogue: the one that was split.
            part: validation or test.
        """
        self.artifact.require_input("catalogue", catalogue.artifact)
        places = self.part(part)
        query_row, cell = (catalogue.event_array(name)[places] for name in ("query_row", "cell"))
        chosen = is_positive(catalogue.event_array("kind")[places]) & (query_row >= 0) & (cell >= 0)
        return merge_cell_targets(
            query_row[chosen],
            cell[chosen],
            catalogue.event_array("item_row")[places][chosen],
            num_queries=catalogue.num_queries,
            num_items=catalogue.num_items,
        )

    def train_pairs(self, catalogue: Catalogue) -> TrainPairs:
        """Return what was chosen under which query in training, over all users, or judged relevant to it."""
        self.artifact.require_input("catalogue", catalogue.artifact)
        return count_pairs(*self._found(catalogue, Part.TRAIN), num_items=catalogue.num_items)

    def query_seen_in_train(self, catalogue: Catalogue) -> NDArray[np.bool_]:
        """Say, for each query ``[queries]``, whether something was chosen under it in training."""
        self.artifact.require_input("catalogue", catalogue.artifact)
        seen = np.zeros(catalogue.num_queries, dtype=np.bool_)
        seen[self._found(catalogue, Part.TRAIN)[0]] = True
        return seen

    def items_new(self, catalogue: Catalogue) -> NDArray[np.bool_]:
        """Say, for each item ``[items]``, whether nobody chose it in training, with or without a query.

        Of judged data: whether it was relevant to no training query.
        """
        new: NDArray[np.bool_] = self.train_counts(catalogue) == 0
        return new

    def train_counts(self, catalogue: Catalogue) -> NDArray[np.int64]:
        """Count, for each item ``[items]``, how often it was chosen in training, or judged relevant."""
        self.artifact.require_input("catalogue", catalogue.artifact)
        if self.config.by is SplitBy.QUERY:
            chosen = self._found(catalogue, Part.TRAIN)[1]
        else:
            positive = is_positive(catalogue.event_array("kind")[self.train])
            chosen = catalogue.event_array("item_row")[self.train][positive]
        return np.bincount(chosen, minlength=catalogue.num_items)

    def train_histories(self, catalogue: Catalogue) -> UserItems:
        """Return what every user ``[users]`` of the catalogue chose in training, in time order, repeats included."""
        self.artifact.require_input("catalogue", catalogue.artifact)
        wanted = self._event_codes(catalogue) == PARTS.index(Part.TRAIN)
        chosen = user_items(catalogue.histories, item_row=catalogue.event_array("item_row"), wanted=wanted)
        return ragged(*chosen, users=np.arange(catalogue.num_users))

    def user_targets(
        self, catalogue: Catalogue, part: Part, *, history: HistoryFrom = HistoryFrom.EARLIER
    ) -> UserTargets:
        """Return what each user chose in a part and had not chosen before, with what he had.

        Args:
            catalogue: the one that was split.
            part: validation or test.
            history: which of his earlier choices count.
        """
        self.artifact.require_input("catalogue", catalogue.artifact)
        codes = self._event_codes(catalogue)
        last = PARTS.index(part if history is HistoryFrom.EARLIER else Part.VALIDATION)
        return make_user_targets(
            catalogue.histories,
            item_row=catalogue.event_array("item_row"),
            is_history=(codes >= 0) & (codes < last),
            is_target=codes == PARTS.index(part),
            num_items=catalogue.num_items,
        )

    def train_query_rows(self, catalogue: Catalogue) -> NDArray[np.int64]:
        """Return the queries that were asked in training, or, of judged data, that belong to it; ascending."""
        return self.query_rows(Part.TRAIN, catalogue=catalogue)

    def query_rows(self, part: Part, *, catalogue: Catalogue) -> NDArray[np.int64]:
        """Return the queries that were asked in a part, or, of judged data, that belong to it; ascending."""
        self.artifact.require_input("catalogue", catalogue.artifact)
        if self.config.by is SplitBy.QUERY:
            return np.flatnonzero(self._query_codes() == PARTS.index(part))
        rows = np.unique(catalogue.event_array("query_row")[self.part(part)])
        return rows[rows >= 0].astype(np.int64)

    def items_known(self, catalogue: Catalogue) -> NDArray[np.bool_]:
        """Say, for each item ``[items]``, whether training may know its title.

        Cut by time: it was there before validation began. Otherwise the catalogue is taken to be there from the start.
        """
        self.artifact.require_input("catalogue", catalogue.artifact)
        if not self.config.by.is_by_time:
            return np.ones(catalogue.num_items, dtype=np.bool_)
        first = self.validation.start if isinstance(self.validation, slice) else int(self.validation[0])
        first_seen = catalogue.items["first_seen"]
        known: NDArray[np.bool_] = (first_seen.is_null() | (first_seen < catalogue.events["time"][first])).to_numpy()
        return known

    def items_of_validation(self, catalogue: Catalogue) -> NDArray[np.bool_]:
        """Say which items ``[items]`` came while validation lasted, which training does not know; see `items_known`."""
        found = ~self.items_known(catalogue)
        places = np.arange(len(catalogue.events))[self.test]
        if found.any() and len(places):
            first_seen = catalogue.items["first_seen"]
            found &= (first_seen < catalogue.events["time"][int(places[0])]).fill_null(value=False).to_numpy()
        return found

    def _event_codes(self, catalogue: Catalogue) -> NDArray[np.int8]:
        codes = np.full(len(catalogue.events), -1, dtype=np.int8)
        for code, part in enumerate(PARTS):
            codes[self._parts[part]] = code
        return codes

    def _query_codes(self) -> NDArray[np.int8]:
        codes: NDArray[np.int8] = _load(self.artifact.file(QUERY_PARTS))
        return codes

    def _found(self, catalogue: Catalogue, part: Part) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return query and item of what was chosen under a query of a part, or judged relevant to one."""
        if self.config.by is SplitBy.QUERY:
            codes = self._query_codes()
            return _relevant(catalogue, wanted=codes == PARTS.index(part), config=self.config)
        return _searches(catalogue, self.part(part))


def build(config: SplitConfig, *, catalogue: Catalogue, out: Path) -> Artifact:
    """Cut a catalogue's log, or its judged queries, and merge the target sets.

    Args:
        config: where to cut.
        catalogue: whose events or judgements.
        out: the stage's folder; the artefact is made in it.

    Raises:
        DataError: the log is too short for this cut, or there is nothing that it could cut.
    """
    return produce(
        out,
        kind=KIND,
        config=config,
        inputs={"catalogue": catalogue.artifact},
        build=lambda folder: _write(folder, config=config, catalogue=catalogue),
    )


def _write(folder: Path, *, config: SplitConfig, catalogue: Catalogue) -> dict[str, Any]:
    if config.by is SplitBy.QUERY:
        return _write_queries(folder, config=config, catalogue=catalogue)
    parts = _event_parts(folder, config=config, catalogue=catalogue)
    time_us = catalogue.event_array("time")
    user_row = catalogue.event_array("user_row")
    summary: dict[str, Any] = {}
    for part, places in parts.items():
        times, users = time_us[places], user_row[places]
        targets = merge_targets(*_searches(catalogue, places), num_items=catalogue.num_items)
        if part is not Part.TRAIN:
            _save_targets(folder, part, targets)
        summary[part] = {
            "from": instant(times.min()),
            "to": instant(times.max()),
            "events": len(times),
            "users": int(np.count_nonzero(np.bincount(users + 1, minlength=1)[1:])),
            "queries": len(targets.query_row),
            "pairs": len(targets.item_rows),
        }
    return summary


def _event_parts(folder: Path, *, config: SplitConfig, catalogue: Catalogue) -> dict[Part, Places]:
    """Cut the events and write where."""
    if config.by.is_by_time:
        runs = cut(catalogue.event_array("time"), config=config)
        write_json(folder / RUNS, {part: [places.start, places.stop] for part, places in runs.items()})
        return dict(runs)
    codes = _codes(config, catalogue=catalogue)
    parts = {part: np.flatnonzero(codes == code) for code, part in enumerate(PARTS)}
    for part, places in parts.items():
        if len(places) == 0:
            raise DataError(
                f"events: the {part} part of a split by '{config.by}' is empty ({len(codes):,} events of "
                f"{catalogue.num_users:,} users). Choose another split.by."
            )
    np.save(folder / EVENT_PARTS, codes)
    return dict(parts)


def _codes(config: SplitConfig, *, catalogue: Catalogue) -> NDArray[np.int8]:
    """Return the code of each event's part where parts are no runs."""
    if config.by is SplitBy.USER:
        if catalogue.num_users == 0:
            raise DataError("events: no event has a user, so there is nobody whose events could be split.")
        return cut_within_users(catalogue.event_array("user_row"), config=config)
    if PART not in catalogue.events.columns:
        raise DataError(
            "events: the table brings no split. Name the column that holds train, validation and test with part under "
            "[events], or choose another split.by."
        )
    given = catalogue.events[PART]
    codes: NDArray[np.int8] = given.to_physical().cast(pl.Int8).fill_null(-1).to_numpy()
    return codes


def _write_queries(folder: Path, *, config: SplitConfig, catalogue: Catalogue) -> dict[str, Any]:
    judgements = catalogue.judgements
    if judgements is None or judgements.is_empty():
        raise DataError(
            "judgements: there are none, and split.by = 'query' divides judged queries. Choose another one."
        )
    if len(catalogue.events):
        raise DataError(
            "events: split.by = 'query' divides judged queries of data without events, and here are "
            f"{len(catalogue.events):,}. Choose a split of the events."
        )
    query_row = judgements["query_row"].to_numpy()
    codes = cut_queries(np.unique(query_row), num_queries=catalogue.num_queries, config=config)
    np.save(folder / QUERY_PARTS, codes)
    summary: dict[str, Any] = {}
    for code, part in enumerate(PARTS):
        pairs = _relevant(catalogue, wanted=codes == code, config=config)
        targets = merge_targets(*pairs, num_items=catalogue.num_items)
        if len(targets.query_row) == 0:
            raise DataError(
                f"judgements: no query of the {part} part has an item of grade "
                f"{_least(catalogue, config):g} or more. Lower split.relevant_grade, or choose other fractions."
            )
        if part is not Part.TRAIN:
            _save_targets(folder, part, targets)
        summary[part] = {
            "judged_queries": int((codes == code).sum()),
            "judgements": int((codes[query_row] == code).sum()),
            "queries": len(targets.query_row),
            "pairs": len(targets.item_rows),
        }
    return summary


def _save_targets(folder: Path, part: Part, targets: Targets) -> None:
    for name, array in targets._asdict().items():
        np.save(folder / f"{part}_{name}.npy", array)


def _searches(catalogue: Catalogue, places: Places) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return query and item of the positive events under a query."""
    query_row = catalogue.event_array("query_row")[places]
    chosen = is_positive(catalogue.event_array("kind")[places]) & (query_row >= 0)
    return query_row[chosen], catalogue.event_array("item_row")[places][chosen]


def _relevant(
    catalogue: Catalogue, *, wanted: NDArray[np.bool_], config: SplitConfig
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return query and item of the relevant judgements of some queries.

    Args:
        catalogue: whose judgements.
        wanted: bool ``[queries]``.
        config: from which grade on an item is relevant.
    """
    assert catalogue.judgements is not None
    columns = (catalogue.judgements[name].to_numpy() for name in ("query_row", "item_row", "grade"))
    query_row, item_row, grade = columns
    kept = wanted[query_row] & (grade >= np.float32(_least(catalogue, config)))
    return query_row[kept], item_row[kept]


def _least(catalogue: Catalogue, config: SplitConfig) -> float:
    assert catalogue.judgements is not None
    if config.relevant_grade is not None:
        return config.relevant_grade
    return float(catalogue.judgements["grade"].to_numpy().max())


def _load(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    return array
