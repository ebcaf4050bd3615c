"""The engine over a small finished run: every question, every refusal, new items, threads, lineage."""

from __future__ import annotations

import cProfile
import io
import json
import os
import pstats
import shutil
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_shop import ITEMS, NO_PHOTO, NO_TITLE, NUM_ITEMS, PX, photo, write_run

import triptych
from triptych.data.images import decode_photo
from triptych.data.text import TextTokenizer, TokenizerConfig
from triptych.encoders.embed import TOKENIZER_FILE, Embedder
from triptych.encoders.inputs import Modalities
from triptych.encoders.models.two_tower import TwoTowerConfig, TwoTowerEncoder
from triptych.engine import Channel, Engine, Facets, Filters, Hit, PhotoError, notes
from triptych.engine.bundle import write_bundle
from triptych.engine.explain import explain_dense, masked_scores
from triptych.engine.shelf import Shelf
from triptych.foundation.artifact import Artifact, write_json
from triptych.foundation.errors import ArtifactError, EngineError
from triptych.nn.precision import Precision
from triptych.recall.models.bm25 import Bm25
from triptych.recall.models.popularity import Popularity

NAN = float("nan")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "shop")


@pytest.fixture(scope="module")
def shared(run):
    """An engine that no test changes."""
    return Engine.open(run.path)


@pytest.fixture
def engine(run):
    return Engine.open(run.path)


@pytest.fixture(scope="module")
def vectors(run):
    embedder = Embedder.open(run.parts["encoder"])
    return SimpleNamespace(embedder=embedder, items=np.load(run.parts["index"].path / "vectors.npy").astype(np.float64))


def ranking(vectors, vector, *, without=(), keep=None):
    """Item ids by true score, by a plain sort."""
    scores = (vectors.items @ np.asarray(vector, dtype=np.float64)).astype(np.float32)
    rows = [row for row in range(NUM_ITEMS) if row not in without and (keep is None or keep[row])]
    return [f"i{row}" for row in sorted(rows, key=lambda row: (-scores[row], row))]


def ids(hits):
    return [hit.item_id for hit in hits]


# --- opening


def test_opens_by_run_folder_and_by_bundle(run, shared):
    assert ids(triptych.load(run.path).search("red hat")) == ids(shared.search("red hat"))
    assert ids(Engine.open(run.bundle.path).search("red hat")) == ids(shared.search("red hat"))
    assert shared.num_items == NUM_ITEMS


def test_a_run_can_be_copied_elsewhere(run, shared, tmp_path):
    shutil.copytree(run.path, tmp_path / "elsewhere" / "shop")
    assert ids(Engine.open(tmp_path / "elsewhere" / "shop").search("hat")) == ids(shared.search("hat"))


def test_opened_through_a_link_it_stays_with_its_run_when_the_link_moves_on(run, tmp_path):
    """Tables are opened when they are first asked for."""
    (tmp_path / "current").symlink_to(run.path)
    engine = Engine.open(tmp_path / "current")
    (tmp_path / "current").unlink()
    assert engine.recommend(user="u1", k=3).note is None
    assert engine.photo_jpeg("i3") is not None


def test_no_run_names_the_nearest(run, tmp_path):
    with pytest.raises(ArtifactError, match=r"There is no run in .*shp'. Did you mean 'shop'\? Make one with"):
        Engine.open(run.path.with_name("shp"))
    with pytest.raises(ArtifactError, match="There is no run"):
        Engine.open(tmp_path / "nowhere" / "at all")


def test_an_unfinished_run_is_refused(tmp_path):
    write_json(tmp_path / "run.json", {"stages": {"catalogue": "catalogue/0"}})
    with pytest.raises(ArtifactError, match=r"is not finished: it has no 'bundle' yet \(finished: catalogue\)"):
        Engine.open(tmp_path)


def test_an_index_of_another_encoder_is_refused_with_both_ids(run, tmp_path):
    other = write_run(tmp_path / "other", seed=1)
    parts = run.parts | {"encoder": other.parts["encoder"]}
    ids_named = f"made from encoder {run.parts['encoder'].id}, but is used with encoder {other.parts['encoder'].id}"
    with pytest.raises(ArtifactError, match=ids_named):
        write_bundle(tmp_path / "bundle", **parts)
    # and where somebody put it together by hand
    shutil.copytree(run.path, tmp_path / "mixed")
    place = tmp_path / "mixed" / "bundle" / run.bundle.id
    encoder = shutil.copytree(other.parts["encoder"].path, tmp_path / "mixed/encoder" / other.parts["encoder"].id)
    parts = json.loads((place / "bundle.json").read_text())
    write_json(place / "bundle.json", parts | {"encoder": os.path.relpath(encoder, place)})
    with pytest.raises(ArtifactError, match=f"used with encoder {other.parts['encoder'].id}"):
        Engine.open(tmp_path / "mixed")


def test_a_lost_part_is_named(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "bm25")
    with pytest.raises(ArtifactError, match=f"bm25/{run.parts['bm25'].id}' does not exist"):
        Engine.open(tmp_path / "broken")


def test_info_names_every_part(run, shared):
    info = shared.info()
    assert info["parts"] == {name: part.id for name, part in run.parts.items()}
    assert info["bundle"] == run.bundle.id
    assert (info["items"], info["added_items"]) == (NUM_ITEMS, 0)
    assert info["encoder"] == {"modalities": "title+photo", "vector_dim": 24, "photo_px": PX}
    json.dumps(info)


# --- searching


def test_search_by_words(shared, vectors):
    hits = shared.search("red shirt", k=NUM_ITEMS)
    assert ids(hits) == ranking(vectors, vectors.embedder.queries(["red shirt"])[0])
    assert all(isinstance(hit, Hit) and hit.why is None and hit.channel is Channel.DENSE for hit in hits)
    assert all(hit.item_id == f"i{hit.item_row}" for hit in hits)
    assert hits[0].score == pytest.approx(shared.score("red shirt", [hits[0].item_id])[0], abs=0)


def test_search_by_photo_in_every_form(shared, vectors, tmp_path):
    content = photo(7)
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    seen = decode_photo(content, px=PX)
    expected = ranking(vectors, vectors.embedder.items([None], pixels=seen[None])[0])
    for form in (content, path, str(path), np.asarray(Image.open(io.BytesIO(content))), seen):
        assert ids(shared.search(photo=form, k=NUM_ITEMS)) == expected
    assert ids(shared.search("  ", photo=content, k=NUM_ITEMS)) == expected


def test_search_by_words_and_photo(shared, vectors):
    seen = decode_photo(photo(7), px=PX)
    words, look = vectors.embedder.queries(["blue bag"])[0], vectors.embedder.items([None], pixels=seen[None])[0]
    together = (words + look) / np.linalg.norm(words + look)
    assert ids(shared.search("blue bag", photo=photo(7), k=NUM_ITEMS)) == ranking(vectors, together)


def test_search_by_shared_words(run, shared):
    hits = shared.search("red hat", channel="bm25", k=NUM_ITEMS)
    scores = Bm25.fit(run.catalogue.titles).scores("red hat")
    assert ids(hits) == [f"i{row}" for row in np.lexsort((np.arange(NUM_ITEMS), -scores)) if scores[row] > 0]
    assert {hit.channel for hit in hits} == {Channel.BM25}


def test_browsing_by_popularity(run, shared):
    counts = Popularity.fit(run.catalogue, train=slice(0, 100)).counts
    expected = [f"i{row}" for row in np.lexsort((np.arange(NUM_ITEMS), -counts))[:6]]
    assert ids(shared.search(channel=Channel.POPULARITY, k=6)) == expected
    assert ids(shared.search("whatever", channel="popularity", k=6)) == expected


UNKNOWN = ["🦆🦆", "красный чайник", "茶壶", "❤️", "\u200b", "¿¡!!!", "\u0301 🦆"]


@pytest.mark.parametrize("query", UNKNOWN)
def test_where_nothing_in_the_words_is_known_popular_items_are_shown_and_a_note_says_so(shared, query):
    hits = shared.search(query, k=5, filters=Filters(category="clothes"), explain=True)
    popular = shared.search(channel="popularity", k=5, filters=Filters(category="clothes"))
    assert ids(hits) == ids(popular) and len(hits) == 5
    assert hits.channel is Channel.POPULARITY and {hit.channel for hit in hits} == {Channel.POPULARITY}
    assert hits.note.endswith("is known here, so these are the most popular items; try other words.")
    assert all(hit.why.without_title is None for hit in hits)
    assert not shared.knows_words(query)
    assert popular.note is None  # it was asked for
    nothing_left = shared.search(query, filters=Filters(min_price=1e6))
    assert nothing_left == [] and nothing_left.note.endswith("is known here; try other words.")


@pytest.mark.parametrize("query", ["red", "🦆 red", "RED!", "ｒｅｄ", "n🦆"])
def test_a_known_word_or_letter_is_enough(shared, query):
    hits = shared.search(query, k=5)
    assert hits.note is None and hits.channel is Channel.DENSE
    assert shared.knows_words(query)


def test_punctuation_in_titles_is_no_word_to_search_by():
    tokenizer = TextTokenizer.fit(["t-shirt", "☕ (new)"], config=TokenizerConfig(vocab_size=64, min_count=1))
    assert "-" in "".join(tokenizer.pieces("-"))  # the encoder has seen it
    known = {query: notes.is_known(query, tokenizer=tokenizer) for query in ("-", "( )", "☕", "t", "q", "\u0301")}
    assert known == {"-": False, "( )": False, "☕": True, "t": True, "q": False, "\u0301": False}


def test_beside_unknown_words_the_photo_decides_alone(shared):
    alone = shared.search(photo=photo(7), k=5, explain=True)
    hits = shared.search("🦆", photo=photo(7), k=5, explain=True)
    assert hits == alone and hits.channel is Channel.DENSE
    assert hits.note == "Nothing in '🦆' is known here, so the photo alone was searched with; try other words."
    assert alone.note is None
    assert shared.why(hits[0].item_id, query="🦆", photo=photo(7)) == shared.why(hits[0].item_id, photo=photo(7))


def test_a_search_by_words_that_no_title_has_says_so(shared):
    for query in ("zebra", "🦆"):
        hits = shared.search(query, channel="bm25")
        assert hits == [] and hits.channel is Channel.BM25
        assert hits.note == f"No title has a word of '{query}'; channel 'dense' also finds other wordings."
    nothing_left = shared.search("red", channel="bm25", filters=Filters(min_price=1e6))
    assert nothing_left == [] and nothing_left.note is None  # the filters, not the words


def test_a_note_repeats_the_query_short_and_visible(shared):
    assert shared.search("🦆" * 300).note.startswith(f"Nothing in '{'🦆' * 40}…' is")
    assert shared.search("🦆\n\x1b[31m🦆".replace("[31m", "")).note.startswith("Nothing in '🦆 🦆' is")
    assert shared.search("\u200b").note.startswith("Nothing in the query is")


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (Filters(category="clothes"), lambda item: item["category"] == "clothes"),
        (Filters(cell="c1"), lambda item: "c1" in item["cells"]),
        (Filters(min_price=20), lambda item: item["price"] is not None and item["price"] >= 20),
        (Filters(max_price=21.0), lambda item: item["price"] is not None and item["price"] <= 21),
        (
            Filters(category="clothes", cell="c2", min_price=12, max_price=40),
            lambda item: item["category"] == "clothes" and "c2" in item["cells"] and 12 <= (item["price"] or NAN) <= 40,
        ),
        (Filters(min_price=1e6), lambda item: False),
        (Filters(), lambda item: True),
    ],
)
@pytest.mark.parametrize("channel", [Channel.DENSE, Channel.BM25, Channel.POPULARITY])
def test_filters(shared, channel, filters, wanted):
    everything = shared.search("nice red hat", channel=channel, k=NUM_ITEMS)
    expected = [hit.item_id for hit in everything if wanted(ITEMS[hit.item_row])]
    assert ids(shared.search("nice red hat", channel=channel, k=NUM_ITEMS, filters=filters)) == expected


def test_facets(shared):
    categories = {"clothes": 18, "things": sum(item["category"] == "things" for item in ITEMS)}
    prices = [item["price"] for item in ITEMS if item["price"] is not None]
    cells = {"c9": 27, "c0": 9, "c1": 9, "c2": 9}
    assert shared.facets() == Facets(categories, cells, (min(prices), max(prices)))
    assert [list(names) for names in shared.facets()[:2]] == [["clothes", "things"], ["c9", "c0", "c1", "c2"]]


def test_example_queries_are_those_most_was_chosen_under(shared):
    assert shared.example_queries(2) == ["hat", "red shirt"]
    assert len(shared.example_queries(50)) == 3


def test_similar(shared, vectors):
    expected = ranking(vectors, vectors.items[8].astype(np.float32), without={8})
    assert ids(shared.similar("i8", k=NUM_ITEMS)) == expected
    assert ids(shared.similar(item="i8", k=3)) == expected[:3]
    clothes = [name for name in expected if ITEMS[int(name[1:])]["category"] == "clothes"]
    assert ids(shared.similar("i8", k=5, filters=Filters(category="clothes"))) == clothes[:5]


def test_recommend_from_history(run, shared, vectors):
    history = run.catalogue.history(run.catalogue.user_row("u3"))
    mean = vectors.items[history[-50:]].astype(np.float32).mean(axis=0)
    expected = ranking(vectors, mean / np.linalg.norm(mean), without=set(history.tolist()))
    hits = shared.recommend(user="u3", k=NUM_ITEMS)
    assert ids(hits) == expected
    assert {hit.channel for hit in hits} == {Channel.DENSE} == {hits.channel}
    assert hits.note is None
    assert shared.knows_user("u3")


@pytest.mark.parametrize("user", ["nobody", "u7"])
def test_recommend_without_history_is_marked_as_popular(shared, user):
    hits = shared.recommend(user=user, k=4)
    assert ids(hits) == ids(shared.search(channel="popularity", k=4))
    assert {hit.channel for hit in hits} == {Channel.POPULARITY} == {hits.channel}
    assert hits.note == f"Nothing is known of user '{user}', so these are the most popular items."
    assert not shared.knows_user(user)


def test_score_in_any_order_with_repeats(shared):
    by_id = {hit.item_id: hit.score for hit in shared.search("blue bag", k=NUM_ITEMS)}
    asked = ["i9", "i2", "i9", "i30"]
    assert shared.score("blue bag", asked) == [by_id[name] for name in asked]
    assert shared.score("blue bag", []) == []


def test_item_and_photo(shared):
    shown = shared.item("i13")
    expected = ITEMS[13] | {"has_photo": True, "added": False}
    assert {name: shown[name] for name in expected} == expected
    assert Image.open(io.BytesIO(shared.photo_jpeg("i13"))).size == (40, 40)
    assert shared.item(f"i{NO_PHOTO}")["has_photo"] is False
    assert shared.photo_jpeg(f"i{NO_PHOTO}") is None
    assert shared.item(f"i{NO_TITLE}")["title"] is None


# --- why


def test_why_masks_one_side_and_nothing_else(shared, vectors):
    """The masked scores are those of the item encoded again without its title, or without its photo."""
    query = vectors.embedder.queries(["red shirt no"])[0]
    for hit in shared.search("red shirt no", k=NUM_ITEMS, explain=True):
        seen = decode_photo(photo(hit.item_row), px=PX)[None]
        title = ITEMS[hit.item_row]["title"]
        has_photo = hit.item_row != NO_PHOTO
        assert hit.why.score == hit.score
        whole = vectors.embedder.items([title], pixels=seen, has_photo=[has_photo])[0]
        assert hit.why.unmasked == pytest.approx(float(whole @ query), abs=1e-5)
        if title is None:
            assert hit.why.without_title is None
        else:
            bare = vectors.embedder.items([None], pixels=seen, has_photo=[has_photo])[0]
            assert hit.why.without_title == pytest.approx(float(bare @ query), abs=1e-5)
        if has_photo:
            assert hit.why.without_photo == pytest.approx(float(vectors.embedder.items([title])[0] @ query), abs=1e-5)
        else:
            assert hit.why.without_photo is None
        assert hit.why.shared_words == [word for word in ("red", "shirt", "no") if word in (title or "").split()]


def test_why_of_one_item_is_that_of_the_search(shared):
    for arguments in ({"query": "blue bag"}, {"photo": photo(3)}, {"query": "blue bag", "photo": photo(3)}):
        for hit in shared.search(**arguments, k=4, explain=True):
            why = shared.why(hit.item_id, **arguments)
            assert why.shared_words == hit.why.shared_words
            assert why[:4] == pytest.approx(hit.why[:4], abs=1e-5)


def test_masking_nothing_makes_exactly_no_difference(run, vectors):
    query = vectors.embedder.queries(["red shirt no"])[0]
    shelf = Shelf.of(run.catalogue)
    rows = range(NUM_ITEMS)
    masked = masked_scores(query, rows=rows, shelf=shelf, embedder=vectors.embedder)
    assert [row for row in rows if masked.unmasked[row] == masked.without_title[row]] == [NO_TITLE]
    assert [row for row in rows if masked.unmasked[row] == masked.without_photo[row]] == [NO_PHOTO]
    torch.manual_seed(0)
    config = TwoTowerConfig(modalities=Modalities.TITLE, dim=16, layers=1, heads=2, vector_dim=24, photo_px=PX)
    tokenizer = TextTokenizer.load(run.parts["encoder"].file(TOKENIZER_FILE))
    blind = Embedder(TwoTowerEncoder(config, vocab_size=300), tokenizer=tokenizer)
    masked = masked_scores(query, rows=rows, shelf=shelf, embedder=blind)
    assert masked.without_photo.tolist() == masked.unmasked.tolist()
    assert np.ptp(masked.without_title) < 1e-6 < 1e-3 < np.ptp(masked.unmasked)  # nothing is left to tell them apart


def test_what_stands_behind_the_encoder_is_given_titles_without_the_encoders_features(run):
    torch.manual_seed(0)
    config = TwoTowerConfig(
        modalities=Modalities.TITLE, title_features=("category",), dim=16, layers=1, heads=2, vector_dim=24, photo_px=PX
    )
    tokenizer = TextTokenizer.load(run.parts["encoder"].file(TOKENIZER_FILE))
    embedder = Embedder(TwoTowerEncoder(config, vocab_size=300), tokenizer=tokenizer)
    shelf, rows, given = Shelf.of(run.catalogue), range(NUM_ITEMS), []

    def fuse(shown):
        given.append((shown.item_ids, shown.titles, shown.texts))
        return shown.content

    masked_scores(np.ones(24, np.float32), rows=rows, shelf=shelf, embedder=embedder, fuse=fuse)
    (of, titles, texts), (nobody, *same) = given
    row_of = {shelf.item_id(row): row for row in rows}
    assert set(of) == set(row_of) and set(nobody) == {None} and same == [titles, texts]
    whole = {row_of[one]: (title, text) for one, title, text in zip(of, titles, texts, strict=True) if text is not None}
    assert whole == {row: (shelf.title(row) or "", shelf.text(row, features=["category"])) for row in whole}
    assert any(text != title for title, text in whole.values())
    assert all(title == "" for title, text in zip(titles, texts, strict=True) if text is None)


def test_an_item_is_explained_alike_alone_and_among_many(run):
    """Many items at once would be encoded in bfloat16 here, and what hiding a side takes away would drown in that."""
    embedder = Embedder.open(run.parts["encoder"], precision=Precision.BF16)
    vector = embedder.queries(["red shirt"])[0]
    explain = partial(explain_dense, "red shirt", vector, shelf=Shelf.of(run.catalogue), embedder=embedder)
    together = explain(rows=range(NUM_ITEMS), scores=[0.5] * NUM_ITEMS)
    for row in range(NUM_ITEMS):
        assert together[row][:4] == pytest.approx(explain(rows=[row], scores=[0.5])[0][:4], abs=1e-5)


def test_why_of_the_other_channels(shared):
    hit = shared.search("red hat", channel="bm25", k=1, explain=True)[0]
    assert hit.why == (hit.score, hit.score, 0.0, None, None, ["red", "hat"], None, None)
    hit = shared.search("red hat", channel="popularity", k=1, explain=True)[0]
    assert hit.why[:5] == (hit.score, hit.score, None, None, None)


def test_explaining_no_hits(shared):
    assert shared.search("red", filters=Filters(min_price=1e6), explain=True) == []


# --- new items


NEW = [
    {"item_id": "n1", "title": "velvet sofa", "category": "sofas", "price": 5.0, "cells": ["c77"], "colour": "plum"},
    {"item_id": "n2", "photo": photo(20, shift=9)},
    {"item_id": "n3", "title": "red velvet sofa", "photo": photo(21), "price": 900, "cells": "c1", "merchant": "M"},
]


def test_new_items_are_found_at_once(engine, vectors):
    assert engine.add_items(NEW) == ["n1", "n2", "n3"]
    assert engine.num_items == NUM_ITEMS + 3
    seen = np.stack(
        [decode_photo(row["photo"], px=PX) if "photo" in row else np.zeros((PX, PX, 3), np.uint8) for row in NEW]
    )
    titles, has_photo = [row.get("title") for row in NEW], ["photo" in row for row in NEW]
    new = vectors.embedder.items(titles, pixels=seen, has_photo=has_photo).astype(np.float16)
    query = vectors.embedder.queries(["velvet sofa"])[0]
    scores = {hit.item_id: hit.score for hit in engine.search("velvet sofa", k=100)}
    assert len(scores) == NUM_ITEMS + 3
    assert [scores[name] for name in ("n1", "n2", "n3")] == pytest.approx((new @ query).tolist(), abs=1e-3)
    by_photo = {hit.item_id: hit.score for hit in engine.search(photo=NEW[1]["photo"], k=100)}
    assert by_photo["n2"] == pytest.approx(1.0, abs=1e-3)  # photo alone against photo alone: the same vector
    assert by_photo["n1"] < 0.99
    assert ids(engine.search("velvet", channel="bm25")) == ["n1", "n3"]
    assert {"n1", "n2", "n3"} <= set(ids(engine.search(channel="popularity", k=100)))
    assert "n2" in ids(engine.similar("n3", k=NUM_ITEMS + 2))
    assert "n3" not in ids(engine.similar("n3", k=NUM_ITEMS + 3))
    assert engine.score("velvet sofa", ["n3"]) == [scores["n3"]]


def test_new_items_obey_filters_and_bring_their_own_values(engine):
    engine.add_items(NEW[:2])
    engine.add_items(NEW[2:])
    found = partial(engine.search, "velvet sofa", k=100)
    assert ids(found(filters=Filters(category="sofas"))) == ["n1"]
    assert ids(found(filters=Filters(cell="c77"))) == ["n1"]
    assert ids(found(filters=Filters(min_price=500))) == ["n3"]
    assert "n3" in ids(found(filters=Filters(cell="c1")))
    assert ids(engine.search("velvet sofa", channel="bm25", filters=Filters(max_price=5))) == ["n1"]
    assert engine.facets().categories["sofas"] == 1
    assert engine.facets().price[1] == 900


def test_new_items_are_shown_and_explained(engine):
    engine.add_items(NEW)
    shown = engine.item("n1")
    assert shown | NEW[0] == shown
    assert (shown["added"], shown["has_photo"], shown["brand"]) == (True, False, None)
    assert set(engine.item("n1")) == set(engine.item("i1"))
    assert engine.photo_jpeg("n1") is None
    assert Image.open(io.BytesIO(engine.photo_jpeg("n2"))).size == (40, 40)
    why = {hit.item_id: hit.why for hit in engine.search("velvet sofa", k=100, explain=True)}
    assert why["n1"].without_photo is None
    assert why["n1"].without_title is not None
    assert why["n2"].without_title is None
    assert why["n3"].shared_words == ["velvet", "sofa"]
    assert engine.info()["added_items"] == 3


def test_new_items_are_gone_with_the_engine(run, engine):
    engine.add_items(NEW)
    assert Engine.open(run.path).num_items == NUM_ITEMS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"title": "x"}], r"New item 1: item_id is None, it must be a text"),
        ([{"item_id": "n1", "title": "x"}, {"item_id": "n1", "title": "y"}], r"New item 2 \('n1'\): .* given twice"),
        ([{"item_id": "i3", "title": "x"}], r"New item 1 \('i3'\): there is an item of this id already"),
        ([{"item_id": "n1"}], "neither a title nor a photo, so nothing could find it"),
        ([{"item_id": "n1", "title": " "}], "neither a title nor a photo"),
        ([{"item_id": "n1", "title": 5}], "title is 5, it must be a text"),
        (
            [{"item_id": "n1", "title": "x", "colur": "red"}],
            r"no column 'colur' in this catalogue. Did you mean 'colour'",
        ),
        ([{"item_id": "n1", "title": "x", "price": "12"}], "price is '12', it must be a number from 0 up"),
        ([{"item_id": "n1", "title": "x", "price": -1}], "price is -1"),
        ([{"item_id": "n1", "title": "x", "price": float("nan")}], "price is nan"),
        ([{"item_id": "n1", "title": "x", "colour": 5}], "colour is 5, it must be a text"),
        ([{"item_id": "n1", "title": "x", "cells": [1]}], r"cells is \[1\], it must be a list of texts"),
        ([{"item_id": "n1", "photo": b"no photo"}], "the photo cannot be used: the file is not a photo"),
        ([{"item_id": "n1", "photo": "nowhere.png"}], "the photo cannot be used: the photo file does not exist"),
        ([{"item_id": "n1", "photo": 7}], "photo is a int, it must be a path or the bytes"),
        ({"item_id": "n1", "title": "x"}, "put this one row into a list"),
    ],
)
def test_wrong_rows_are_refused_and_none_is_added(engine, rows, message):
    good = [{"item_id": "good", "title": "velvet sofa"}]
    with pytest.raises(EngineError, match=message):
        engine.add_items(rows if isinstance(rows, dict) else [*rows, *good])
    assert engine.num_items == NUM_ITEMS
    assert engine.search("velvet", channel="bm25") == []
    engine.add_items(good)
    with pytest.raises(EngineError, match="there is an item of this id already"):
        engine.add_items(good)


def test_there_is_room_for_so_many_and_no_more(run):
    engine = Engine.open(run.path, max_added_items=2)
    with pytest.raises(EngineError, match="room for 2 more items at run time, these are 3. Put new items into the"):
        engine.add_items(NEW)
    engine.add_items(NEW[:1])
    with pytest.raises(EngineError, match="room for 1 more items at run time, these are 2"):
        engine.add_items(NEW[1:])
    engine.add_items(NEW[1:2])
    with pytest.raises(EngineError, match="room for 0 more items"):
        engine.add_items(NEW[2:])
    assert engine.num_items == NUM_ITEMS + 2


def test_a_new_id_is_not_compared_with_every_known_one(engine):
    """Nearest ids are for error messages: looking for them takes some ten microseconds per known item."""
    profile = cProfile.Profile()
    profile.runcall(engine.add_items, NEW)
    files = {Path(file).name for file, _, _ in pstats.Stats(profile).stats}
    assert "new_items.py" in files
    assert "difflib.py" not in files


def test_searching_while_adding(engine):
    """Answers are of one moment: an item is in all of the engine or in none of it, whatever the other threads do."""
    faults: list[BaseException] = []
    done = threading.Event()

    def search():
        try:
            while not done.is_set():
                hits = engine.search("velvet sofa", k=1000)
                assert len(set(ids(hits))) == len(hits) >= NUM_ITEMS
                assert all(engine.item(hit.item_id)["item_id"] == hit.item_id for hit in hits)
                keep = engine.search("velvet sofa", k=1000, filters=Filters(max_price=1), explain=True)
                assert all(hit.item_id.startswith("t") for hit in keep)
                engine.facets()
        except BaseException as error:  # a thread's exception would be lost
            faults.append(error)

    def add(name):
        try:
            for place in range(8):
                engine.add_items([{"item_id": f"t{name}-{place}", "title": f"velvet sofa {place}", "price": 1}])
        except BaseException as error:
            faults.append(error)

    searching = [threading.Thread(target=search) for _ in range(2)]
    adding = [threading.Thread(target=add, args=(name,)) for name in range(2)]
    for thread in [*searching, *adding]:
        thread.start()
    for thread in adding:
        thread.join()
    done.set()
    for thread in searching:
        thread.join()
    assert faults == []
    assert engine.num_items == NUM_ITEMS + 16
    assert len(engine.search("velvet", channel="bm25", k=100)) == 16


# --- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.search(), "needs words or a photo; the query is empty"),
        (lambda e: e.search("   "), "needs words or a photo; the query is empty"),
        (lambda e: e.search(7), "The query is 7, it must be a text"),
        (lambda e: e.search("x", k=0), "k is 0, it must be at least 1"),
        (lambda e: e.search("x", k=2.5), "k is 2.5, it must be a whole number"),
        (lambda e: e.search("x", channel="bm2"), "There is no channel 'bm2'. Did you mean 'bm25'"),
        (
            lambda e: e.search("x", channel="vectors"),
            "There is no channel 'vectors'. Valid: recall, dense, generative, bm25, popularity",
        ),
        (lambda e: e.search("x", channel="recall"), "This shop has no recall model. Use channel 'dense'"),
        (lambda e: e.search("x", channel="bm25", photo=photo(1)), "Channel 'bm25' reads no photos"),
        (lambda e: e.search(photo=b"junk"), "photo to search with cannot be used: the file is not a photo"),
        (lambda e: e.search(photo=Path("nowhere.png")), "cannot be used: the photo file does not exist"),
        (lambda e: e.search(photo=np.zeros((4, 4), np.uint8)), r"is uint8 \(4, 4\); give a path"),
        (lambda e: e.search(photo=3), "photo to search with is a int; give a path"),
        (lambda e: e.search("x", filters=Filters(category="cloths")), "no category 'cloths'. Did you mean 'clothes'"),
        (lambda e: e.search("x", filters=Filters(category="zzz")), "no category 'zzz'. There are: clothes, things"),
        (lambda e: e.search("x", filters=Filters(cell="c5")), "no delivery cell 'c5'"),
        (lambda e: e.search("x", filters=Filters(min_price=5, max_price=4)), "min_price 5 is above max_price 4"),
        (lambda e: e.search("x", filters=Filters(max_price=NAN)), "max_price is nan"),
        (lambda e: e.similar("i_13"), "no item 'i_13' in the catalogue. Did you mean 'i13'"),
        (lambda e: e.similar(3), "named by its item_id, a text, not by 3"),
        (lambda e: e.recommend(user=3), "A user is named by a text, not by 3"),
        (lambda e: e.score("", ["i1"]), "Scoring needs a query that is not empty"),
        (lambda e: e.score("x", "i1"), r"put this one into a list: \['i1'\]"),
        (lambda e: e.score("x", ["i1", "nope"]), "no item 'nope' in the catalogue"),
        (lambda e: e.score("🦆", ["i1"]), "Nothing in '🦆' is known here, so nothing can be scored by it"),
        (lambda e: e.why("i1", query="🦆"), "Nothing in '🦆' is known here, so it explains no item"),
        (lambda e: e.why("i1"), "needs the words or the photo of the search"),
        (lambda e: e.why("nope", query="x"), "no item 'nope'"),
        (lambda e: e.item("nope"), "no item 'nope'"),
        (lambda e: e.photo_jpeg("nope"), "no item 'nope'"),
    ],
)
def test_refusals(shared, call, message):
    with pytest.raises(EngineError, match=message):
        call(shared)


def test_what_is_wrong_with_a_photo_can_be_told_from_what_is_wrong_with_a_request(engine):
    for call in (lambda: engine.search(photo=b"junk"), lambda: engine.add_items([{"item_id": "n", "photo": b"junk"}])):
        with pytest.raises(PhotoError):
            call()
    with pytest.raises(EngineError) as refused:
        engine.search(photo=3)
    assert not isinstance(refused.value, PhotoError)


def test_artifacts_of_a_run_verify(run):
    for part in (*run.parts.values(), run.bundle):
        Artifact.open(part.path).verify()
