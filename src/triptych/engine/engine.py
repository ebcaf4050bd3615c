"""The engine: one shop, opened from a finished run, that answers requests, and is changed while it does.

Every answer is made from one snapshot (items, vectors, words, counts) that is replaced as a whole when items are added,
replaced or removed. So requests from several threads need no lock, and none ever sees half a change. With a journal, a
change is on disk before it is in a snapshot.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.data.catalogue import Catalogue
from triptych.data.events import is_positive
from triptych.encoders.embed import Embedder
from triptych.encoders.embeddings import Modality
from triptych.engine import notes
from triptych.engine.answers import Answer, Channel, CodePath, CodeTree, Facets, Hit, Why
from triptych.engine.bundle import Parts, open_bundle
from triptych.engine.channels import BY_MEANING, channel_of_recommendation, channel_of_search
from triptych.engine.filters import Filters
from triptych.engine.journal import Journal
from triptych.engine.new_items import MAX_ADDED_ITEMS, PhotoSizes, check_rows, encode_items
from triptych.engine.photos import Photo, query_pixels
from triptych.engine.ranking import require_rankable
from triptych.engine.replay import holding, read_items
from triptych.engine.shelf import Shelf
from triptych.engine.snapshot import Snapshot
from triptych.foundation.errors import ArtifactError, ConfigError, EngineError
from triptych.recall.base import Request
from triptych.recall.models.dense import DenseConfig

log = logging.getLogger(__name__)

SHORTEN_ABOVE, SHORTEN_FROM = 4, 256
"""A journal is written anew when it is opened with so many times more changes than items they left."""
LISTED = 5
"""Items that a log line names at most."""


class Engine:
    """Search, similar items, recommendation, scoring and live changes over one shop. Safe to share between threads."""

    def __init__(
        self,
        parts: Parts,
        *,
        bundle_id: str,
        dense: DenseConfig,
        recommends: Channel | None = None,
        max_added_items: int = MAX_ADDED_ITEMS,
    ) -> None:
        """Load checked parts; use `open`."""
        self._parts = parts
        self._bundle_id = bundle_id
        self._max_added_items = max_added_items
        self._catalogue = Catalogue.open(parts.catalogue)
        self._embedder = Embedder.open(parts.encoder)
        self._tokenizer = self._embedder.tokenizer
        photo_px = self._catalogue.photos.px
        if self._embedder.modalities.reads_photo and self._embedder.px != photo_px:
            raise ArtifactError(
                f"The encoder {parts.encoder.id} takes photos of {self._embedder.px} px, the catalogue "
                f"{parts.catalogue.id} has them at {photo_px} px. Make the catalogue with photo_px = "
                f"{self._embedder.px}."
            )
        self._photo_sizes = PhotoSizes(px=photo_px, display_px=int(self._catalogue.artifact.config["display_px"]))
        self._changing = threading.Lock()
        self._journal: Journal | None = None
        self._successor: Engine | None = None
        self._is_closed = False
        self._snapshot = Snapshot.open(
            parts, catalogue=self._catalogue, embedder=self._embedder, dense=dense, recommends=recommends
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        max_added_items: int = MAX_ADDED_ITEMS,
        journal: str | Path | None = None,
        carry_over: bool = False,
    ) -> Engine:
        """Open a run folder (``runs/shop``) or a bundle artefact in it.

        Args:
            path: the folder.
            max_added_items: most rows that `add_items` and `replace_items` take in all; each holds its photo in memory.
            journal: a folder that holds the changes: those of before are made again, later ones are on disk before
                they are seen. Made where it is absent. None: changes live in memory and end with the engine.
            carry_over: the journal may be of an earlier catalogue; it becomes one of this catalogue. What then holds
                says `triptych.engine.replay`.

        Raises:
            ArtifactError: there is no finished run, a part is absent or damaged, or parts do not belong together or to
                this version of triptych; the journal is damaged, held by another process, or of another catalogue.
            EngineError: there is no journal to carry over.
        """
        if carry_over and journal is None:
            raise EngineError("carry_over is said of a journal, and none is named. Name its folder, or leave it out.")
        bundle, parts = open_bundle(path)
        try:
            dense = DenseConfig.parse(bundle.config["dense"])
            chosen = bundle.config.get("recommend")
            engine = cls(
                parts,
                bundle_id=bundle.id,
                dense=dense,
                recommends=None if chosen is None else Channel(chosen),
                max_added_items=max_added_items,
            )
        except ConfigError as error:  # of a part, not of whoever opens it
            raise ArtifactError(
                f"The run in {str(path)!r} was made by another version of triptych ({str(error).rstrip('.')}). "
                "Run the same `triptych run` again: it makes anew what this version writes otherwise."
            ) from None
        if journal is not None:
            engine._open_journal(Journal.open(journal, catalogue_id=parts.catalogue.id), carry_over=carry_over)
        return engine

    def search(
        self,
        query: str | None = None,
        *,
        photo: Photo | None = None,
        k: int = 10,
        user: str | None = None,
        filters: Filters | None = None,
        channel: Channel | str | None = None,
        rank: bool | None = None,
        explain: bool = False,
    ) -> Answer:
        """Search by words, by photo, or by both.

        Args:
            query: what to look for.
            photo: a path, the bytes of a file, or RGB pixels uint8 ``[height, width, 3]``; channels dense and hybrid.
            k: most hits wanted; there are fewer where fewer items pass the filters, or share a word (bm25).
            user: who asks. A personal recall model and the ranker read his history in the log; the others answer
                everybody alike.
            filters: which items may be in the answer.
            channel: how items are found: recall, dense, generative (a decoder says their semantic IDs), bm25,
                popularity (which looks at neither words nor photo), or hybrid, which fuses some of these. None, with
                words alone: by hybrid where validation found it better than each of them, else by recall where the shop
                has a recall model that knows anything of them; in all other cases by dense.
            rank: whether the ranker puts the first of what the channel found into its own order, of words alone. None:
                where validation found that better of this channel.
            explain: give each hit its `Why`; in channels recall and dense each is encoded up to three times for it.

        Returns:
            Hits, best first; equal scores by item row. Where nothing in the words is known (see `knows_words`),
            channels that go by meaning answer by the photo alone, or without one by popularity, and the answer's
            `note` says so, as it does where a channel of the hybrid cannot read what was asked.

        Raises:
            EngineError: nothing to search by, or an argument that cannot be used.
        """
        text = _text(query)
        now = self._snapshot
        chosen = channel_of_search(now, channel, text=text, has_photo=photo is not None)
        if text is None and photo is None and chosen is not Channel.POPULARITY:
            raise EngineError(
                "A search needs words or a photo; the query is empty. To browse, choose channel popularity."
            )
        keep = now.shelf.columns.mask(filters)
        request = Request(query=text, photo=query_pixels(photo, px=self._embedder.px), user=user, keep=keep)
        instead = None
        if text is not None and chosen in BY_MEANING and not self.knows_words(text):
            if photo is not None:
                request = replace(request, query=None)
                instead = "the photo alone was searched with"
            else:
                chosen, instead = Channel.POPULARITY, "these are the most popular items"
        ranked = now.ranks(chosen) and text is not None and photo is None if rank is None else rank
        if ranked:
            require_rankable(has_ranker=now.ranking is not None, text=text, has_photo=photo is not None)
        cell = None if filters is None else filters.cell
        answer = now.answer(request, k=k, channel=chosen, ranked=ranked and instead is None, cell=cell)
        if text is not None and instead is not None:
            answer.note = notes.nothing_known(text, so=instead if answer else None)
        elif text is not None and chosen is Channel.BM25 and not answer and not now.bm25.scores(text).any():
            answer.note = notes.no_shared_word(text)
        elif chosen is Channel.HYBRID and now.hybrid is not None:
            absent = [name for name in now.hybrid.channels if name not in now.hybrid.asked(request)]
            answer.note = notes.left_out(absent) if absent else None
        if explain:
            answer[:] = now.explained(answer, request, chosen)
        return answer

    def similar(self, item: str, *, k: int = 10, filters: Filters | None = None) -> Answer:
        """Return the items nearest to an item, itself left out.

        Raises:
            EngineError: there is no such item, or an argument that cannot be used.
        """
        now = self._snapshot
        request = Request(item_row=now.shelf.row(item), keep=now.shelf.columns.mask(filters))
        return now.answer(request, k=k, channel=Channel.DENSE)

    def recommend(
        self,
        *,
        user: str | None = None,
        history: Sequence[str] | None = None,
        k: int = 20,
        filters: Filters | None = None,
        channel: Channel | str | None = None,
    ) -> Answer:
        """Return items for a user of the log, or for a history that is given; what was chosen before is left out.

        Args:
            user: who asks: he is answered by what he chose in the log. Either this or `history`.
            history: ids of the items that somebody chose, oldest first, whether the log knows him or not.
            k: most hits wanted.
            filters: which items may be in the answer.
            channel: recall (a recall model of users or histories), item_knn (what the same users chose), dense (what is
                near the history by content) or popularity. None: what the run chose, else recall where the shop has
                such a model, else dense.

        Returns:
            Hits, best first. `channel` says what found them, and `note` why, where that is not what was asked for:
            dense where recall or item_knn cannot answer (the model has no vector for this user, or goes by users and a
            history was given, or knows nothing of it), popularity where nothing was chosen before.

        Raises:
            EngineError: an argument that cannot be used, or an item of the history that there never was.
        """
        if (user is None) == (history is None):
            raise EngineError("A recommendation is for a user, or by a history of items: give one of the two.")
        now = self._snapshot
        note: str | None = None
        chosen = channel_of_recommendation(now, channel)
        keep = now.shelf.columns.mask(filters)
        rows = self._history(now.shelf, user=user, history=history)
        request = Request(user=user, history=rows, keep=keep)
        if chosen is Channel.RECALL and now.recommender is not None and not now.recommender.answers(request):
            note = notes.by_content(user, channel=chosen, reads_histories=now.recommender.reads_histories)
            chosen = Channel.DENSE
        elif chosen is Channel.ITEM_KNN and now.item_knn is not None and not now.item_knn.knows(rows):
            note = notes.by_content(user, channel=chosen, reads_histories=True)
            chosen = Channel.DENSE
        if not len(rows):
            chosen, note = Channel.POPULARITY, notes.empty_history() if user is None else notes.no_history(user)
        elif chosen is Channel.POPULARITY:  # which looks at no history
            keep = np.ones(len(now.shelf.columns.live), np.bool_) if keep is None else keep.copy()
            keep[rows] = False
            request = replace(request, keep=keep)
        answer = now.answer(request, k=k, channel=chosen)
        answer.note = note
        return answer

    def score(self, query: str, items: Sequence[str]) -> list[float]:
        """Return how well each item answers a query: the cosine of their vectors.

        Raises:
            EngineError: the query is empty, nothing in it is known, or there is no such item.
        """
        text = _text(query)
        if text is None:
            raise EngineError("Scoring needs a query that is not empty.")
        if isinstance(items, str):
            raise EngineError(f"score takes a list of items; put this one into a list: ['{items}'].")
        now = self._snapshot
        rows = [now.shelf.row(item) for item in items]
        self._require_known(text, so="nothing can be scored by it")
        vector = now.dense.request_vectors([Request(query=text)])[0]
        return now.scores(rows, vector)

    def why(
        self,
        item: str,
        *,
        query: str | None = None,
        photo: Photo | None = None,
        user: str | None = None,
        channel: Channel | str | None = None,
        rank: bool | None = None,
    ) -> Why:
        """Explain one item for a search: as `search` with ``explain``, for an item of your choice.

        Args:
            item: its id.
            query: words that were searched by.
            photo: a photo that was searched by.
            user: who asked.
            channel: recall, dense, generative or hybrid, whose places are those without filters; None: as `search`
                chooses.
            rank: whether the ranker says what it made of the item; its place is likewise that without filters. None:
                where `search` would let it.

        Raises:
            EngineError: nothing was searched by, nothing in the words is known, there is no such item, the channel
                reads no vectors, or not this photo, or none of the hybrid's channels found the item.
        """
        text = _text(query)
        if text is None and photo is None:
            raise EngineError("An explanation needs the words or the photo of the search.")
        now = self._snapshot
        chosen = channel_of_search(now, channel, text=text, has_photo=photo is not None)
        if chosen not in BY_MEANING:
            raise EngineError(f"Channel '{chosen}' explains what it finds alone: search with explain=True.")
        row = now.shelf.row(item)
        pixels = query_pixels(photo, px=self._embedder.px)
        if text is not None and pixels is None:
            self._require_known(text, so="it explains no item")
        elif text is not None and not self.knows_words(text):
            text = None  # as in the search, where the photo decided alone
        request = Request(query=text, photo=pixels, user=user)
        score = now.score(row, request, chosen)
        if score is None:
            raise EngineError(f"No channel of the hybrid has item '{item}' among its first for this search.")
        why = now.whys([Hit(row, item, score)], request, chosen)[0]
        ranked = now.ranks(chosen) and text is not None and photo is None if rank is None else rank
        if not ranked:
            return why
        require_rankable(has_ranker=now.ranking is not None, text=text, has_photo=photo is not None)
        return why._replace(ranked=now.placed(row, request, chosen))

    def code_path(self, item: str, *, k: int = 6, of: str = "item") -> CodePath:
        """Return an item's semantic ID, and the items near it by prefix.

        Args:
            item: its id.
            k: most items named for each number of codes in common.
            of: what the ID is of: item (title and photo together), title or photo.

        Raises:
            EngineError: there is no such item, k is below 1, or the shop has no such semantic IDs.
        """
        now = self._snapshot
        row = now.shelf.row(item)
        _require_ids(now)
        if of not in now.code_paths:
            raise EngineError(
                f"This shop has semantic IDs of {', '.join(now.code_paths)}, and none of '{of}'. Run it with "
                "semantic_ids.sets that name it."
            )
        return now.code_path(row, k=k, of=Modality(of))

    def code_tree(self, prefix: Sequence[int] = (), *, k: int = 6, limit: int = 60, offset: int = 0) -> CodeTree:
        """Return what follows a prefix of semantic IDs: each code, how many items have it, and which stand for them.

        The items that stand for the others are those whose vectors are nearest to the mean of the vectors; of a code
        with more than 256 items, 256 at equal distances in the catalogue are looked at.

        Args:
            prefix: codes, the coarsest first, such as ``(12, 7)``; none: the first codes of all IDs. A whole ID: the
                items that share it.
            k: most items named for each code.
            limit: most codes named, those with the most items first; behind a whole ID, most items.
            offset: so many of the first are left out.

        Raises:
            EngineError: a number is too small, the prefix is longer than an ID, no item has it (`PrefixError`), or the
                shop has no semantic IDs.
        """
        now = self._snapshot
        _require_ids(now)
        numbers = {"k": (k, 1), "limit": (limit, 1), "offset": (offset, 0)}
        for name, (number, least) in numbers.items():
            if number < least:
                raise EngineError(f"{name} is {number}, it must be at least {least}.")
        return now.code_tree(prefix, k=k, limit=limit, offset=offset)

    def add_items(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Add items; they are found at once, by words, by photo and through filters, without training.

        All or none are added. Without a journal they live in memory: closing the engine forgets them, so put them into
        the items table for the next run. Every change indexes all titles anew (see `Bm25.with_items`), so add many at a
        time.

        Args:
            rows: per item ``item_id`` and at least one of ``title`` and ``photo`` (a path, or the bytes of a file);
                also ``category``, ``brand``, ``merchant``, ``price``, ``cells`` (a list) and the catalogue's further
                columns.

        Returns:
            Their ids, in order.

        Raises:
            EngineError: a row is wrong or its id is taken (the row's place is named), there is no room for so many, or
                the journal could not be written (`JournalError`).
        """
        return self._put(rows, replaces=False)

    def replace_items(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Put items in the place of those of the same ids; one that is new is added. All or none, as in `add_items`.

        A row is the whole item: what it does not say, the item no longer has, its photo included. What was learned
        of the id and how often it was chosen go on to count, and so do histories that name it.

        Args:
            rows: as of `add_items`.

        Returns:
            Their ids, in order.

        Raises:
            EngineError: as of `add_items`, but that ids may be taken.
        """
        return self._put(rows, replaces=True)

    def remove_items(self, item_ids: Sequence[str]) -> list[str]:
        """Remove items: no answer, filter or count has them any more. All or none; the ids may be added again.

        Histories that name them go on to count: what somebody liked says what he likes.

        Args:
            item_ids: those that are to go.

        Returns:
            The same, each once.

        Raises:
            EngineError: there is no such item, or the journal could not be written (`JournalError`).
        """
        if isinstance(item_ids, str):
            raise EngineError(f"remove_items takes a list of items; put this one into a list: ['{item_ids}'].")
        named = list(dict.fromkeys(item_ids))
        with self._changing:
            successor = self._successor
            if successor is None:
                now = self._snapshot
                after = now.changed(gone=[now.shelf.row(item_id) for item_id in named])
                if named:
                    self._write(remove=named)
                    self._snapshot = after
        if successor is not None:
            return successor.remove_items(named)
        log.info("removed %d items", len(named))
        return named

    def succeed(self, old: Engine, *, publish: Callable[[], None] = lambda: None) -> None:
        """Take over from an engine that has served until now: its journal, and every change from now on.

        Its journal's changes are made here, too, those that arrive meanwhile included. Then, while changes wait, the
        journal becomes this engine's and `publish` is called. A change asked of `old` later is made here. `old` goes on
        to answer as it did. Without a journal, its changes are forgotten, and the log says how many.

        Args:
            old: an engine over an earlier run, or another one over the same.
            publish: makes this engine the one that is asked; called while no change can be made.

        Raises:
            ArtifactError: a change does not fit this engine's catalogue. `old` keeps its journal and goes on.
            JournalError: the journal could not be written for this engine's catalogue; likewise.
            EngineError: `old` was closed.
        """
        read_to = 0 if old._journal is None else self._replay(old._journal)
        with old._changing:
            if old._is_closed:
                raise EngineError("The engine to take over from was closed meanwhile; open this one with its journal.")
            if old._journal is not None:
                self._replay(old._journal, since=read_to)
                self._keep(old._journal)
            elif old._snapshot.shelf.num_changes:
                log.warning(
                    "%d changes were made without a journal; the new run does not know them",
                    old._snapshot.shelf.num_changes,
                )
            old._journal, old._successor = None, self
            publish()

    def close(self) -> None:
        """Let another process have the journal. Answers go on; changes are refused, since they would be forgotten."""
        with self._changing:
            self._is_closed = True
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    @property
    def version(self) -> str:
        """A short fingerprint of the run that answers, changes at run time aside."""
        return self._bundle_id[:10]

    @property
    def bundle_id(self) -> str:
        """Id of the bundle that was opened."""
        return self._bundle_id

    @property
    def num_items(self) -> int:
        """Number of items, those added at run time included, those removed not."""
        return self._snapshot.shelf.num_items

    def item(self, item_id: str) -> dict[str, Any]:
        """Return what is shown of an item: the catalogue's columns, ``has_photo``, ``added`` (at run time).

        Raises:
            EngineError: there is no such item.
        """
        shelf = self._snapshot.shelf
        return shelf.shown(shelf.row(item_id))

    def shown(self, hit: Hit) -> dict[str, Any]:
        """Return what is shown of a hit, as `item` does; also of one that was removed after it had been found."""
        return self._snapshot.shelf.shown(hit.item_row)

    def photo_jpeg(self, item_id: str) -> bytes | None:
        """Return an item's photo as the page shows it, or None.

        Raises:
            EngineError: there is no such item.
        """
        shelf = self._snapshot.shelf
        return shelf.jpeg(shelf.row(item_id))

    def facets(self) -> Facets:
        """Return what can be filtered by, with counts."""
        return self._snapshot.shelf.columns.facets()

    def knows_user(self, user: str) -> bool:
        """Say whether a user has chosen anything, so that `recommend` is personal."""
        return len(self._history(self._snapshot.shelf, user=user)) > 0

    def knows_item(self, item_id: str) -> bool:
        """Say whether there is such an item."""
        return self._snapshot.shelf.has(item_id)

    def knows_words(self, query: str) -> bool:
        """Say whether the encoder knows a letter, digit or symbol of a query, so that it can be searched by meaning."""
        return notes.is_known(query, tokenizer=self._tokenizer)

    def example_queries(self, num: int = 8) -> list[str]:
        """Return the queries under which most was chosen, to try."""
        return [self._catalogue.queries[row] for row in self._frequent_queries[:num]]

    def info(self) -> dict[str, Any]:
        """Return what answers: ids of the artefacts, what the encoder reads, counts."""
        now = self._snapshot
        return {
            "bundle": self._bundle_id,
            "parts": {name: part.id for name, part in self._parts.named().items()},
            "encoder": {
                "modalities": self._embedder.modalities.value,
                "vector_dim": self._embedder.vector_dim,
                "photo_px": self._embedder.px,
            },
            "items": now.shelf.num_items,
            "added_items": now.shelf.num_added,
            "users": self._catalogue.num_users,
            "queries": self._catalogue.num_queries,
            "index_bytes": now.index.memory_bytes,
            "ranker_content_bytes": 0 if now.ranking is None else now.ranking.content_bytes,
            "search_channel": now.usual_channel.value,
            "recommend_channel": now.recommending_channel.value,
            "search_is_ranked": now.ranks(now.usual_channel),
        }

    def _put(self, rows: Sequence[Mapping[str, Any]], *, replaces: bool) -> list[str]:
        with self._changing:
            successor = self._successor
            if successor is None:
                now = self._snapshot
                new = check_rows(
                    rows,
                    features=self._catalogue.feature_roles,
                    is_known=(lambda _: False) if replaces else now.shelf.has,
                    room=self._max_added_items - now.shelf.num_added_rows,
                    photos=self._photo_sizes,
                )
                vectors = encode_items(new, embedder=self._embedder) if new else None
                gone = [now.shelf.row(item.item_id) for item in new if now.shelf.has(item.item_id)]
                after = now.changed(new=new, vectors=vectors, gone=gone)
                if new:
                    self._write(put=[item.row() for item in new], time=new[0].first_seen)
                    self._snapshot = after
        if successor is not None:
            return successor._put(rows, replaces=replaces)
        log.info("added %d items, %d of them in the place of others", len(new), len(gone))
        return [item.item_id for item in new]

    def _write(self, **change: Any) -> None:
        """Have a change on disk; from here on nothing can fail, so what is in the journal is what will be seen."""
        if self._is_closed:
            raise EngineError("The engine was closed, so it takes no changes. Open it again.")
        if self._journal is not None:
            self._journal.append(**change)

    def _open_journal(self, journal: Journal, *, carry_over: bool) -> None:
        """Make a journal's changes and keep it.

        Raises:
            ArtifactError: it is of another catalogue and may not be carried over, or a change does not fit.
        """
        catalogue_id = self._parts.catalogue.id
        try:
            if journal.catalogue_id != catalogue_id and not carry_over:
                raise ArtifactError(
                    f"The journal in {str(journal.folder)!r} was begun on catalogue {journal.catalogue_id}, this run's "
                    f"is {catalogue_id}. If the run was made anew from tables of the same shop, carry the changes "
                    "over (--carry-over); if not, name another folder."
                )
            self._replay(journal)
            self._keep(journal)
        except BaseException:
            journal.close()
            raise

    def _replay(self, journal: Journal, *, since: int = 0) -> int:
        """Make the changes that a journal holds from a byte on; return its end."""
        end, shelf = journal.end, self._snapshot.shelf
        entries = holding(
            journal, catalogue=self._parts.catalogue, is_in_catalogue=self._is_in_catalogue, since=since
        ).entries
        new, vectors = read_items(
            journal,
            entries,
            features=self._catalogue.feature_roles,
            photos=self._photo_sizes,
            embedder=self._embedder,
        )
        if len(new) > self._max_added_items - shelf.num_added_rows:
            raise ArtifactError(
                f"The journal in {str(journal.folder)!r} holds {len(new):,} items, there is room for "
                f"{self._max_added_items:,} (max_added_items). Put them into the items table and make the run anew."
            )
        gone = [shelf.row(entry.item_id) for entry in entries if shelf.has(entry.item_id)]
        self._snapshot = self._snapshot.changed(new=new, vectors=vectors, gone=gone)
        return end

    def _keep(self, journal: Journal) -> None:
        """Make a replayed journal this engine's; written anew where it is of another catalogue, or mostly of the past.

        Raises:
            JournalError: it could not be written anew.
        """
        found = holding(journal, catalogue=self._parts.catalogue, is_in_catalogue=self._is_in_catalogue)
        keep = [entry for entry in found.entries if entry.place is not None or self._is_in_catalogue(entry.item_id)]
        is_of_another = journal.catalogue_id != self._parts.catalogue.id
        if is_of_another or journal.num_changes > SHORTEN_ABOVE * max(len(keep), SHORTEN_FROM):
            journal.rewrite(catalogue_id=self._parts.catalogue.id, keep=keep)
        if found.overtaken:
            listed = ", ".join(found.overtaken[:LISTED]) + (" …" if len(found.overtaken) > LISTED else "")
            count = len(found.overtaken)
            log.warning("%d items of the journal are in the catalogue by now, which counts: %s", count, listed)
        self._journal = journal

    def _is_in_catalogue(self, item_id: str) -> bool:
        return self._snapshot.shelf.own_row(item_id) is not None

    @cached_property
    def _frequent_queries(self) -> list[int]:
        query_row = self._catalogue.event_array("query_row")
        chosen = is_positive(self._catalogue.event_array("kind")) & (query_row >= 0)
        counts = np.bincount(query_row[chosen], minlength=self._catalogue.num_queries)
        order = np.argsort(-counts, kind="stable")
        return [int(row) for row in order[: int(np.count_nonzero(counts))][:1000]]

    def _history(self, shelf: Shelf, *, user: str | None, history: Sequence[str] | None = None) -> NDArray[np.int64]:
        """Return the rows, as they are now, of what a user chose in the log, or of a history that is given."""
        if history is not None:
            if isinstance(history, str):
                raise EngineError(f"A history is a list of items; put this one into a list: ['{history}'].")
            return np.array([shelf.history_row(item) for item in history], dtype=np.int64)
        if not isinstance(user, str):
            raise EngineError(f"A user is named by a text, not by {user!r}.")
        row = self._catalogue.user_row(user)
        return shelf.current(np.empty(0, np.int64) if row is None else self._catalogue.history(row).astype(np.int64))

    def _require_known(self, query: str, *, so: str) -> None:
        if not self.knows_words(query):
            raise EngineError(notes.nothing_known(query, so=so))


def _require_ids(now: Snapshot) -> None:
    """Refuse what only semantic IDs can answer.

    Raises:
        EngineError: the shop has none.
    """
    if not now.code_paths:
        raise EngineError("This shop has no semantic IDs. Run it with [semantic_ids] set.")


def _text(query: str | None) -> str | None:
    """Return the query, None where there is nothing in it."""
    if query is not None and not isinstance(query, str):
        raise EngineError(f"The query is {query!r}, it must be a text.")
    return query if query and query.strip() else None
