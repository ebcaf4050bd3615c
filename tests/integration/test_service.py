"""The HTTP service over a finished run, through the ASGI client: every route, every refusal, every header."""

from __future__ import annotations

import base64
import errno
import io
import json
import logging
import os
import re
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator
from importlib.metadata import version as package_version
from pathlib import Path
from urllib.parse import quote

import anyio
import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.requests import Request

import triptych.serve
from triptych.engine import Engine, Filters
from triptych.foundation.errors import ArtifactError, ConfigError, EngineError
from triptych.serve import ServeConfig, create_app, schemas
from triptych.serve.hints import operations
from triptych.serve.logs import JsonLines, TextLines
from triptych.serve.runtime import Runtime
from triptych.serve.server import listen, url

pytestmark = pytest.mark.anyio

OPERATIONS = {
    "search",
    "search_by_photo",
    "why",
    "why_by_photo",
    "similar",
    "codes",
    "code_tree",
    "recommend",
    "recommend_by_history",
    "item",
    "item_photo",
    "add_items",
    "replace_items",
    "remove_items",
    "remove_item",
    "facets",
    "info",
    "health",
    "ready",
    "metrics",
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def engine(demo_run: Path) -> Engine:
    return Engine.open(demo_run)


@pytest.fixture(scope="module")
async def app(engine: Engine, anyio_backend: str) -> AsyncIterator[FastAPI]:
    app = create_app(engine, allowed_hosts=["shop"])
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="module")
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        await wait_until_ready(client)
        yield client


async def wait_until_ready(client: httpx.AsyncClient) -> None:
    with anyio.fail_after(120):
        while (await client.get("/ready")).status_code != 200:
            await anyio.sleep(0.02)


def refusal(response: httpx.Response, status: int) -> str:
    """The sentence of a refusal, after checking its shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status and set(body) == {"type", "title", "status", "detail"}
    return body["detail"]


def jpeg(colour: tuple[int, int, int], *, size: tuple[int, int] = (80, 60)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG")
    return stream.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A file whose header tells a size that it has no pixels for: whoever decodes it finds it damaged."""
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG")
    content = stream.getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.fixture(scope="module")
def query(engine: Engine) -> str:
    """A query of the log of which some titles have a word."""
    return next(query for query in engine.example_queries(100) if len(engine.search(query, channel="bm25", k=24)) == 24)


@pytest.fixture(scope="module")
def pictured(engine: Engine, query: str) -> str:
    """The id of an item with a photo."""
    return next(hit.item_id for hit in engine.search(query, k=50) if engine.photo_jpeg(hit.item_id) is not None)


# --- state -----------------------------------------------------------------------------------------------------------


async def test_it_listens_before_the_engine_is_open_and_says_so(demo_run: Path) -> None:
    app = create_app(demo_run, allowed_hosts=["shop"])
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        assert (await client.get("/health")).json() == {"status": "alive"}
        for path in ("/ready", "/api/search?q=x", "/api/items/i1/photo"):
            early = await client.get(path)
            assert "still loading" in refusal(early, 503)
            assert early.headers["retry-after"] == "1"
        await wait_until_ready(client)
        run = app.state.runtime.engine.version
        assert (await client.get("/ready")).json() == {"status": "ready", "serving": {"run": run, "generation": 1}}
        assert (await client.get("/api/info")).status_code == 200


async def test_it_warms_up_with_words_that_its_encoder_knows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Engine, "search", lambda self, query, *, k: asked.append(query))
    monkeypatch.setattr("triptych.serve.runtime.WARM_UP_QUERY", "разогрев")
    app = create_app(engine, allowed_hosts=["shop"])
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        await wait_until_ready(client)
    assert asked == engine.example_queries(1) and engine.knows_words(asked[0])


async def test_a_run_that_is_not_there_never_becomes_ready(tmp_path: Path) -> None:
    app = create_app(tmp_path / "nothing", allowed_hosts=["shop"])
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        with anyio.fail_after(60):
            while "could not be opened" not in (sentence := refusal(await client.get("/ready"), 503)):
                await anyio.sleep(0.02)
        assert "nothing" in sentence
        assert (await client.get("/health")).status_code == 200


async def test_the_openapi_document_is_stable_and_complete(client: httpx.AsyncClient) -> None:
    document = (await client.get("/api/openapi.json")).json()
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert {operation["operationId"] for operation in operations} == OPERATIONS
    assert all(operation["summary"] and operation["description"] for operation in operations)
    form = document["paths"]["/api/search"]["post"]["requestBody"]["content"]
    assert list(form) == ["multipart/form-data"]
    described = document["paths"]["/api/search"]["get"]["parameters"]
    assert all(parameter["description"] for parameter in described)


# --- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["dense", "bm25", "popularity"])
async def test_search_gives_what_the_engine_gives(
    client: httpx.AsyncClient, engine: Engine, query: str, channel: str
) -> None:
    response = await client.get("/api/search", params={"q": query, "k": 7, "channel": channel})
    expected = engine.search(query, k=7, channel=channel)
    assert response.status_code == 200, response.text
    hits = response.json()["hits"]
    assert len(hits) == len(expected) > 0
    assert [hit["item"]["item_id"] for hit in hits] == [hit.item_id for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected])
    assert [hit["rank"] for hit in hits] == list(range(1, len(expected) + 1))
    for hit in hits:
        assert hit["item"]["title"] == engine.item(hit["item"]["item_id"])["title"]
    assert response.json()["num_items"] == engine.num_items
    assert (response.json()["channel"], response.json()["note"]) == (channel, None)


async def test_where_nothing_in_the_words_is_known_the_answer_says_what_it_is(
    client: httpx.AsyncClient, engine: Engine, pictured: str
) -> None:
    answer = (await client.get("/api/search", params={"q": "🦆", "k": 5})).json()
    assert answer["note"] == engine.search("🦆", k=5).note and "'🦆' is known here" in answer["note"]
    assert answer["channel"] == "popularity"
    popular = engine.search(channel="popularity", k=5)
    assert [hit["item"]["item_id"] for hit in answer["hits"]] == [hit.item_id for hit in popular]
    upload = {"photo": ("mine.jpg", engine.photo_jpeg(pictured), "image/jpeg")}
    answer = (await client.post("/api/search", data={"q": "🦆", "k": "5"}, files=upload)).json()
    assert answer["channel"] == "dense" and "the photo alone" in answer["note"]
    answer = (await client.get("/api/search", params={"q": "zebrafish", "channel": "bm25"})).json()
    assert answer["hits"] == [] and "No title has a word of 'zebrafish'" in answer["note"]
    refused = await client.get("/api/why", params={"q": "🦆", "item_id": pictured})
    assert "Nothing in '🦆' is known here" in refusal(refused, 422)


async def test_without_words_it_browses_by_popularity_only(client: httpx.AsyncClient, engine: Engine) -> None:
    browsed = await client.get("/api/search", params={"channel": "popularity", "k": 5})
    expected = engine.search(None, channel="popularity", k=5)
    assert [hit["item"]["item_id"] for hit in browsed.json()["hits"]] == [hit.item_id for hit in expected]
    for q in (None, "", "   "):
        sentence = refusal(await client.get("/api/search", params={} if q is None else {"q": q}), 422)
        assert "needs words or a photo" in sentence


async def test_filters_narrow_to_exactly_what_they_say(client: httpx.AsyncClient, engine: Engine, query: str) -> None:
    shown = [engine.item(hit.item_id) for hit in engine.search(query, k=50)]
    model = next(item for item in shown if item["cells"])
    category, cell = model["category"], model["cells"][0]
    span = {"min_price": model["price"] * 0.8, "max_price": model["price"] * 1.5}
    asked = {"q": query, "k": 200, "category": category, "cell": cell, **span}
    hits = (await client.get("/api/search", params=asked)).json()["hits"]
    assert model["item_id"] in [hit["item"]["item_id"] for hit in hits]
    for hit in hits:
        assert hit["item"]["category"] == category
        assert cell in hit["item"]["cells"]
        assert span["min_price"] <= hit["item"]["price"] <= span["max_price"]
    expected = engine.search(query, k=200, filters=Filters(category=category, cell=cell, **span))
    assert [hit["item"]["item_id"] for hit in hits] == [hit.item_id for hit in expected]


async def test_facets_count_every_item(client: httpx.AsyncClient) -> None:
    facets = (await client.get("/api/facets")).json()
    counts = [entry["count"] for entry in facets["categories"]]
    assert counts == sorted(counts, reverse=True)
    smallest = facets["categories"][-1]
    asked = {"channel": "popularity", "category": smallest["name"], "k": 200}
    found = (await client.get("/api/search", params=asked)).json()["hits"]
    assert len(found) == min(200, smallest["count"])
    prices = [hit["item"]["price"] for hit in found if hit["item"]["price"] is not None]
    assert all(facets["price"]["low"] <= price <= facets["price"]["high"] for price in prices)


async def test_a_photo_is_a_query(client: httpx.AsyncClient, engine: Engine, query: str, pictured: str) -> None:
    photo = engine.photo_jpeg(pictured)
    assert photo is not None
    upload = {"photo": ("mine.jpg", photo, "image/jpeg")}
    alone = await client.post("/api/search", data={"k": "6"}, files=upload)
    both = await client.post("/api/search", data={"k": "6", "q": query}, files=upload)
    assert alone.status_code == both.status_code == 200, alone.text + both.text
    for answer, expected in (
        (alone, engine.search(photo=photo, k=6)),
        (both, engine.search(query, photo=photo, k=6)),
    ):
        assert [hit["item"]["item_id"] for hit in answer.json()["hits"]] == [hit.item_id for hit in expected]


async def test_the_form_without_a_photo_is_the_same_search(client: httpx.AsyncClient, query: str) -> None:
    posted = await client.post("/api/search", data={"q": query, "k": "5"}, files={"photo": ("", b"")})
    got = await client.get("/api/search", params={"q": query, "k": 5})
    assert posted.json()["hits"] == got.json()["hits"]


async def test_why_agrees_with_the_search_and_the_engine(client: httpx.AsyncClient, engine: Engine, query: str) -> None:
    hits = (await client.get("/api/search", params={"q": query, "k": 3, "explain": True})).json()["hits"]
    for hit in hits:
        item_id = hit["item"]["item_id"]
        alone = (await client.get("/api/why", params={"q": query, "item_id": item_id})).json()
        expected = engine.why(item_id, query=query)
        assert hit["why"]["shared_words"] == alone["shared_words"] == list(expected.shared_words)
        for side in ("score", "unmasked", "without_title", "without_photo"):
            assert hit["why"][side] == pytest.approx(alone[side], abs=1e-4)
            assert alone[side] == pytest.approx(getattr(expected, side), abs=1e-6)
        assert alone["score"] == pytest.approx(hit["score"], abs=1e-6)
        assert alone["unmasked"] == pytest.approx(hit["score"], abs=0.02)  # the index keeps vectors of lower precision


async def test_why_for_a_photo(client: httpx.AsyncClient, engine: Engine, pictured: str) -> None:
    photo = engine.photo_jpeg(pictured)
    assert photo is not None
    response = await client.post("/api/why", data={"item_id": pictured}, files={"photo": ("p.jpg", photo)})
    assert response.json()["score"] == pytest.approx(engine.why(pictured, photo=photo).score, abs=1e-6)
    assert "needs the words or the photo" in refusal(await client.get("/api/why", params={"item_id": pictured}), 422)


async def test_the_semantic_id_of_an_item(client: httpx.AsyncClient, engine: Engine, pictured: str) -> None:
    answer = (await client.get(f"/api/codes/{pictured}", params={"k": 2})).json()
    found = engine.code_path(pictured, k=2)
    assert answer["codes"] == found.codes
    steps = [(step.codes_shared, step.num_items, [hit.item_id for hit in step.hits]) for step in found.steps]
    told = answer["steps"]
    assert steps == [
        (one["codes_shared"], one["num_items"], [hit["item"]["item_id"] for hit in one["hits"]]) for one in told
    ]
    assert (answer["of"], answer["sets"]) == ("item", ["item"])
    assert "none of 'photo'" in refusal(await client.get(f"/api/codes/{pictured}", params={"of": "photo"}), 422)


async def test_the_tree_of_semantic_ids(client: httpx.AsyncClient, engine: Engine, pictured: str) -> None:
    path = engine.code_path(pictured).codes
    for depth in range(len(path) + 1):
        prefix = path[:depth]
        asked = {"prefix": ".".join(map(str, prefix)), "k": 3, "limit": 5, "offset": 1}
        answer = (await client.get("/api/codes", params=asked)).json()
        found = engine.code_tree(prefix, k=3, limit=5, offset=1)
        for name in ("prefix", "levels", "num_codes", "num_items", "num_branches"):
            assert answer[name] == getattr(found, name)
        assert [hit["item"]["item_id"] for hit in answer["hits"]] == [hit.item_id for hit in found.hits]
        assert [
            (one["code"], one["num_items"], [hit["item"]["item_id"] for hit in one["hits"]])
            for one in answer["branches"]
        ] == [(one.code, one.num_items, [hit.item_id for hit in one.hits]) for one in found.branches]
    assert (await client.get("/api/codes")).json()["num_items"] == engine.num_items


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ({"prefix": "99999999999999999999"}, 404, "No item's semantic ID begins with 99999999999999999999."),
        ({"prefix": "1.2.3.4"}, 422, "1.2.3.4 has 4 codes; a semantic ID of this shop has 3."),
        ({"prefix": "1..2"}, 422, "prefix: codes with full stops between them are wanted, such as 12.7, got '1..2'."),
        ({"prefix": "1" * 201}, 422, "prefix: string should have at most 200 characters."),
        ({"k": 7}, 422, "k: input should be less than or equal to 6, got '7'."),
        ({"prefixes": "1"}, 422, "prefixes"),
    ],
)
async def test_a_prefix_that_leads_nowhere(client: httpx.AsyncClient, asked: dict, status: int, sentence: str) -> None:
    assert sentence in refusal(await client.get("/api/codes", params=asked), status)


async def test_similar_and_recommend(client: httpx.AsyncClient, engine: Engine, pictured: str) -> None:
    similar = (await client.get(f"/api/similar/{pictured}", params={"k": 5})).json()["hits"]
    assert [hit["item"]["item_id"] for hit in similar] == [hit.item_id for hit in engine.similar(pictured, k=5)]
    assert pictured not in [hit["item"]["item_id"] for hit in similar]
    stranger = (await client.get("/api/recommend/nobody-we-know", params={"k": 5})).json()
    popular = engine.search(None, channel="popularity", k=5)
    assert stranger["personal"] is False and "user 'nobody-we-know'" in stranger["note"]
    assert [hit["item"]["item_id"] for hit in stranger["hits"]] == [hit.item_id for hit in popular]
    assert stranger["channel"] == "popularity"
    chosen = [similar[0]["item"]["item_id"], pictured]
    by_history = (await client.get("/api/recommend", params={"k": 5, "history": chosen})).json()
    expected = engine.recommend(history=chosen, k=5)
    assert [hit["item"]["item_id"] for hit in by_history["hits"]] == [hit.item_id for hit in expected]
    assert by_history["personal"] is True and by_history["channel"] == "dense" and by_history["note"] is None
    assert "answers users" in refusal(await client.get("/api/recommend/u1", params={"channel": "recall"}), 422)
    assert "history" in refusal(await client.get("/api/recommend"), 422)


# --- items -----------------------------------------------------------------------------------------------------------


async def test_item_and_photo(client: httpx.AsyncClient, engine: Engine, pictured: str) -> None:
    item = (await client.get(f"/api/items/{pictured}")).json()
    assert item["item_id"] == pictured and item["photo_url"]
    first = await client.get(item["photo_url"])
    assert first.content == engine.photo_jpeg(pictured)
    assert first.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(first.content)).format == "JPEG"
    assert "max-age=86400" in first.headers["cache-control"]
    again = await client.get(item["photo_url"], headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    unversioned = await client.get(f"/api/items/{pictured}/photo")
    assert unversioned.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/api/items/no-such",
        "/api/items/no-such/photo",
        "/api/similar/no-such",
        "/api/codes/no-such",
        "/api/why?q=a&item_id=no-such",
    ],
)
async def test_an_unknown_item_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert "no-such" in refusal(await client.get(path), 404)


@pytest.mark.parametrize("item_id", ["new-1", "dept/7 ½?#&", "菜/1"])
async def test_an_added_item_is_found_at_once(client: httpx.AsyncClient, engine: Engine, item_id: str) -> None:
    before = engine.num_items
    photo = jpeg((20, 180, 90))
    word = f"quokka{before}"
    row = {
        "item_id": item_id,
        "title": f"Zanzibar {word} lamp",
        "category": word,
        "photo": base64.b64encode(photo).decode(),
        "price": 12.5,
    }
    added = await client.post("/api/items", json={"items": [row]})
    assert added.status_code == 201, added.text
    assert added.json() == {"item_ids": [item_id], "num_items": before + 1}
    address = f"/api/items/{quote(item_id, safe='')}"
    item = (await client.get(address)).json()
    assert (item["item_id"], item["title"], item["price"]) == (item_id, row["title"], 12.5)
    assert Image.open(io.BytesIO((await client.get(item["photo_url"])).content)).format == "JPEG"
    upload = {"photo": ("p.jpg", photo)}
    for found in (
        await client.get("/api/search", params={"q": word, "channel": "bm25"}),
        await client.get("/api/search", params={"q": row["title"], "category": word}),
        await client.post("/api/search", data={"category": word}, files=upload),
    ):
        assert [hit["item"]["item_id"] for hit in found.json()["hits"]] == [item_id]
    assert (await client.get(f"/api/similar/{quote(item_id, safe='')}")).status_code == 200
    assert item_id in refusal(await client.post("/api/items", json={"items": [row]}), 422)


async def test_an_item_without_a_photo_says_so(client: httpx.AsyncClient) -> None:
    await client.post("/api/items", json={"items": [{"item_id": "bare", "title": "Bare item"}]})
    assert (await client.get("/api/items/bare")).json()["photo_url"] is None
    assert "no photo" in refusal(await client.get("/api/items/bare/photo"), 404)


async def test_a_photo_that_is_not_base64_is_refused(client: httpx.AsyncClient, engine: Engine) -> None:
    before = engine.num_items
    sent = {"items": [{"item_id": "odd", "title": "Odd", "photo": "§§§"}]}
    assert "not base64" in refusal(await client.post("/api/items", json=sent), 422)
    assert engine.num_items == before


LONG = "y" * 201


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"category": LONG}, "items.0.category: .*at most 200 characters"),
        ({"brand": LONG}, "items.0.brand: .*at most 200 characters"),
        ({"merchant": LONG}, "items.0.merchant: .*at most 200 characters"),
        ({"cells": ["c1", LONG]}, "items.0.cells.1: .*at most 200 characters"),
        ({"cells": ["c1"] * 1001}, "items.0.cells: .*at most 1000 items"),
        ({"title": "y" * 2001}, "items.0.title: .*at most 2000 characters"),
        ({"colour": "y" * 2001}, "items.0.colour: a text may have at most 2000 characters"),
        ({"colour": ["red", LONG]}, "items.0.colour: a list may have at most 1000 texts of at most 200 characters"),
        ({"colour": ["red", 7]}, "items.0.colour: a list may have at most 1000 texts"),
        ({"colour": {"a": "b"}}, "items.0.colour: this is no text, number or list of texts"),
        ({LONG: "red"}, "the name of a column may have at most 200 characters"),
        ({"no such column": "red"}, "there is no column 'no such column' in this catalogue"),
    ],
)
async def test_values_of_a_new_item_have_limits(
    client: httpx.AsyncClient, engine: Engine, columns: dict[str, object], sentence: str
) -> None:
    before = engine.num_items
    sent = {"items": [{"item_id": "limits", "title": "Limits", **columns}]}
    assert re.search(sentence, refusal(await client.post("/api/items", json=sent), 422))
    assert engine.num_items == before


async def test_items_come_as_json_that_says_so(client: httpx.AsyncClient, engine: Engine) -> None:
    """A page elsewhere can send a body without asking first, but only one that does not claim to be JSON."""
    before = engine.num_items
    body = b'{"items": [{"item_id": "smuggled", "title": "Smuggled"}]}'
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        refusal(await client.post("/api/items", content=body, headers=headers), 422)
    assert engine.num_items == before


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"q": "a", "k": 0}, "k: .*greater than or equal to 1"),
        ({"q": "a", "k": 201}, "k: .*less than or equal to 200"),
        ({"q": "a" * 401}, "q: .*at most 400 characters"),
        (
            {"q": "a", "channel": "magic"},
            "channel: .*'dense', 'generative', 'bm25', 'popularity', 'item_knn' or 'hybrid'",
        ),
        ({"q": "a", "categry": "x"}, r"'categry' is not a parameter of this request. Did you mean 'category'\?"),
        ({"q": "a", "session": "u1"}, "'session' is not a parameter of this request"),
        ({"q": "a", "min_price": 3, "max_price": 1}, r"lowest price \(3\) is above the highest \(1\)"),
        ({"q": "a", "min_price": "nan"}, "min_price: .*finite"),
        ({"q": "a", "category": "no such category"}, "no such category"),
        ({"q": "a", "cell": "no such cell"}, "no such cell"),
    ],
)
async def test_a_search_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, asked: dict[str, object], sentence: str
) -> None:
    assert re.search(sentence, refusal(await client.get("/api/search", params=asked), 422))


async def test_a_file_that_is_no_photo_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/search", files={"photo": ("mine.jpg", b"not a photo at all", "image/jpeg")})
    assert "photo" in refusal(response, 422)


@pytest.mark.parametrize("declared", [True, False], ids=["declared length", "chunked"])
async def test_a_photo_above_8_mib_is_refused(client: httpx.AsyncClient, declared: bool) -> None:
    request = client.build_request("POST", "/api/search", files={"photo": ("big.jpg", bytes(9 * 2**20))})
    taken_bytes = 0
    if not declared:
        whole = request.read()

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal taken_bytes
            for start in range(0, len(whole), 2**16):
                taken_bytes = start + 2**16
                yield whole[start : start + 2**16]

        headers = {"content-type": request.headers["content-type"]}
        request = client.build_request("POST", "/api/search", content=chunks(), headers=headers)
        assert "content-length" not in request.headers
    assert "larger than 8 MiB" in refusal(await client.send(request), 413)
    assert taken_bytes <= 8 * 2**20 + 2**17  # and no more of it was taken


async def test_a_photo_just_above_the_limit_is_refused_too(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/search", files={"photo": ("big.jpg", bytes(8 * 2**20 + 1))})
    assert "larger than 8 MiB" in refusal(response, 413)


async def test_a_photo_of_too_many_pixels_is_refused_before_it_is_decoded(
    client: httpx.AsyncClient, engine: Engine, pictured: str
) -> None:
    before = engine.num_items
    for size, sentence in (
        ((5000, 5001), "5000 × 5001 pixels, more than 25 million"),
        ((50_000, 50_000), "far more than 25 million pixels"),
    ):
        photo = png_of(*size)
        upload = {"photo": ("big.png", photo)}
        row = {"item_id": "big", "title": "Big", "photo": base64.b64encode(photo).decode()}
        for response, what in (
            (await client.post("/api/search", files=upload), "The photo has"),
            (await client.post("/api/why", data={"item_id": pictured}, files=upload), "The photo has"),
            (await client.post("/api/items", json={"items": [row]}), "The photo of 'big' has"),
        ):
            assert re.match(f"{what} {sentence}; send a smaller one.", refusal(response, 413))
    assert engine.num_items == before
    just_small_enough = await client.post("/api/search", files={"photo": ("ok.png", png_of(5000, 5000))})
    assert "damaged" in refusal(just_small_enough, 422)  # it was decoded


async def test_limits_are_settings_and_are_told(engine: Engine, pictured: str) -> None:
    config = ServeConfig(max_photo_bytes=20_000, max_photo_pixels=90_000, max_items_bytes=50_000)
    app = create_app(engine, allowed_hosts=["shop"], config=config)
    before = engine.num_items
    large, wide = b"\xff\xd8" + bytes(20_000), jpeg((9, 9, 9), size=(301, 300))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        await wait_until_ready(client)
        told = (await client.get("/api/info")).json()["limits"]
        assert told == {"photo_bytes": 20_000, "photo_pixels": 90_000, "items_bytes": 50_000}
        for photo, sentence in (
            (large, "is larger than 19.5 KiB; send a smaller one."),
            (wide, "has 301 × 300 pixels, more than 0.09 million; send a smaller one."),
        ):
            row = {"item_id": "big", "title": "Big", "photo": base64.b64encode(photo).decode()}
            upload = {"photo": ("big.jpg", photo)}
            for response, what in (
                (await client.post("/api/search", files=upload), "The photo"),
                (await client.post("/api/why", data={"item_id": pictured}, files=upload), "The photo"),
                (await client.post("/api/items", json={"items": [row]}), "The photo of 'big'"),
            ):
                assert refusal(response, 413) == f"{what} {sentence}"
        rows = [{"item_id": f"n{place}", "title": "t" * 1000} for place in range(150)]
        sentence = "The body is larger than 48.8 KiB; send fewer items at a time."
        assert refusal(await client.post("/api/items", json={"items": rows}), 413) == sentence
        fits = await client.post("/api/search", files={"photo": ("ok.jpg", jpeg((9, 9, 9), size=(300, 300)))})
        assert fits.status_code == 200
    assert engine.num_items == before


async def test_no_photo_is_decoded_before_its_size_is_known(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG of 89 megapixels, all of one colour, is 260 kB: refused without a pixel of it being made."""
    stream = io.BytesIO()
    Image.new("RGB", (9400, 9400)).save(stream, "PNG", compress_level=9)
    assert len(stream.getvalue()) < 300_000

    def never(self: object, *arguments: object) -> None:
        raise AssertionError("the photo was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    response = await client.post("/api/search", files={"photo": ("bomb.png", stream.getvalue())})
    assert "9400 × 9400 pixels, more than 25 million" in refusal(response, 413)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("max_photo_byte=1", "Did you mean 'max_photo_bytes'"),
        ("max_photo_bytes=1", "max_photo_bytes: .*greater than or equal to 1024"),
        ("max_photo_pixels=1e9", "max_photo_pixels: "),
        ("log_format=xml", "log_format: .*'text' or 'json'"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(setting: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ServeConfig().override(setting)


async def test_a_form_takes_no_more_than_the_address(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/search", data={"q": "a", "session": "u1"}, files={"photo": ("", b"")})
    assert "'session' is not a parameter of this request" in refusal(response, 422)


async def test_unknown_addresses_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    assert "/api/nothing" in refusal(await client.get("/api/nothing"), 404)
    refusal(await client.delete("/api/info"), 405)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "sentence"),
    [
        ("GET", "/api/recommend?user=u1", {}, 422, "it stands in the address: /api/recommend/{user}."),
        ("GET", "/api/recommend?user_id=u1&k=2", {}, 422, "'user_id' is not a parameter of this request; it stands in"),
        ("GET", "/api/recommend", {}, 422, "'history' is missing; it is required here. Without it there is /api/reco"),
        ("POST", "/api/recommend", {"json": {"user": "u1"}}, 405, "POST is not answered at /api/recommend; GET is."),
        ("GET", "/api/search?query=red", {}, 422, "Did you mean 'q'?"),
        ("GET", "/api/search?q=red&limit=3", {}, 422, "Did you mean 'k'?"),
        (
            "POST",
            "/api/search",
            {"json": {"q": "red"}},
            415,
            "takes a form (multipart/form-data), not application/json;",
        ),
        ("POST", "/api/search?q=red", {}, 422, "reads its form alone: put q there, or ask by GET."),
        ("POST", "/api/why", {"data": {"item": "i1"}}, 422, "Did you mean 'item_id'?"),
        ("GET", "/api/search/red", {}, 404, "There is GET /api/search with k, "),
        ("GET", "/search?q=red", {}, 404, "There is GET /api/search with k, "),
        ("GET", "/api/similar/?item_id=i1", {}, 422, "it stands in the address: /api/similar/{item_id}."),
        ("GET", "/api/similar/", {}, 404, "The address names no item; its id stands at the end."),
        ("GET", "/api/item/i1", {}, 404, "There is GET /api/items/{item_id}"),
        ("GET", "/api/items", {}, 405, "POST and PUT are. There is GET /api/items/{item_id}."),
        ("PUT", "/api/items/i1", {"json": {"title": "x"}}, 405, "There is PUT /api/items."),
        ("POST", "/api/items", {"json": {"item_id": "i1"}}, 422, "Did you mean 'items'?"),
        ("POST", "/api/items", {"json": [{"item_id": "i1"}]}, 422, 'The body is JSON, such as {"items": [{"item_id": '),
        ("POST", "/api/items", {}, 422, "The body is missing; it is required here."),
        ("POST", "/api/items/remove", {"json": {"items": ["i1"]}}, 422, "Did you mean 'item_ids'?"),
        (
            "POST",
            "/api/items",
            {"content": "{bad", "headers": {"content-type": "application/json"}},
            422,
            "The body is not JSON: ",
        ),
    ],
)
async def test_a_refusal_shows_the_right_form(
    client: httpx.AsyncClient, method: str, path: str, sent: dict[str, object], status: int, sentence: str
) -> None:
    response = await client.request(method, path, **sent)
    assert sentence in refusal(response, status)
    if status == 405:
        taken = response.headers["allow"].split(", ")
        assert taken[0] and method not in taken


async def test_the_body_that_a_refusal_shows_is_taken() -> None:
    shown = {one.path: one.example for one in operations(create_app(Path("nowhere"))) if one.example}
    assert set(shown) == {"/api/items", "/api/items/remove"}
    schemas.NewItems.model_validate_json(shown["/api/items"])
    schemas.ItemIds.model_validate_json(shown["/api/items/remove"])


async def test_a_defect_is_500_without_its_inside(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def broken() -> None:
        raise RuntimeError("secret detail")

    app.add_api_route("/api/broken", broken, include_in_schema=False)
    sentence = refusal(await client.get("/api/broken"), 500)
    assert "secret" not in sentence and "log" in sentence


async def test_an_engine_error_is_the_callers(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def refused() -> None:
        raise EngineError("This cannot be answered.")

    app.add_api_route("/api/refused", refused, include_in_schema=False)
    assert refusal(await client.get("/api/refused"), 422) == "This cannot be answered."


# --- whom it answers for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["shop", "SHOP:8000", "localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
async def test_it_answers_for_its_own_hosts(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "shop.evil.example", "localhost.evil.example", "10.0.0.1", ""]
)
async def test_a_name_made_to_point_here_reaches_nothing(client: httpx.AsyncClient, engine: Engine, host: str) -> None:
    before = engine.num_items
    sent = {"items": [{"item_id": "rebound", "title": "Rebound"}]}
    for response in (
        await client.post("/api/items", json=sent, headers={"host": host}),
        await client.get("/api/info", headers={"host": host}),
        await client.get("/", headers={"host": host}),
    ):
        assert f"does not answer for the host '{host}'; call it by localhost" in refusal(response, 400)
        assert response.headers["x-content-type-options"] == "nosniff"
    assert engine.num_items == before


@pytest.mark.parametrize(
    ("reached", "host", "status"),
    [
        ("192.0.2.7", "192.0.2.7:8000", 200),
        ("192.0.2.7", "192.0.2.8:8000", 400),
        ("2001:db8::7", "[2001:db8::7]:8000", 200),
        ("2001:db8::7", "[2001:db8::8]:8000", 400),
        ("::ffff:192.0.2.7", "192.0.2.7", 200),
        ("evil.example", "evil.example", 400),
    ],
)
async def test_it_answers_for_the_address_it_is_reached_at(
    app: FastAPI, client: httpx.AsyncClient, reached: str, host: str, status: int
) -> None:
    async def reached_there(scope, receive, send) -> None:
        await app({**scope, "server": (reached, 8000)}, receive, send)

    transport = httpx.ASGITransport(reached_there)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as other:
        assert (await other.get("/health", headers={"host": host})).status_code == status


async def test_hosts_can_be_allowed_by_pattern(tmp_path: Path) -> None:
    for allowed, host, status in (
        ("*.shop.local", "a.shop.local", 200),
        ("*.shop.local", "shop.local.evil.example", 400),
        ("*", "anything.example", 200),
        ("fd00::5", "[fd00::5]:8000", 200),
    ):
        transport = httpx.ASGITransport(create_app(tmp_path, allowed_hosts=[allowed]))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as other:
            assert (await other.get("/health")).status_code == status, (allowed, host)


@pytest.mark.parametrize("wrong", ["http://shop", "shop:8000", "*shop", "a*b", ""])
def test_what_is_no_host_is_refused_at_once(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"allowed_hosts: '{re.escape(wrong)}' is no host; give a name or address"):
        create_app(tmp_path, allowed_hosts=[wrong])
    with pytest.raises(ConfigError, match=r"put this one host into a list: \['shop'\]"):
        create_app(tmp_path, allowed_hosts="shop")


# --- how it runs -----------------------------------------------------------------------------------------------------


async def test_engine_work_never_holds_the_event_loop(app: FastAPI, client: httpx.AsyncClient) -> None:
    """While one call sits in the engine, others are answered: shown with a call that waits for the others."""
    gate = threading.Event()
    runtime = app.state.runtime
    request = Request({"type": "http", "state": {}})
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def held() -> None:
                assert await runtime.call(lambda engine: gate.wait(50), request=request)

            group.start_soon(held)
            await anyio.sleep(0)
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/")).status_code == 200
            gate.set()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no threads to cores")
def test_no_more_engine_calls_at_once_than_cores_to_run_on(tmp_path: Path) -> None:
    calls = []

    def bound() -> None:  # a thread of its own, so that the tests after this one keep their cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        calls.append(Runtime(tmp_path)._limiter.total_tokens)

    thread = threading.Thread(target=bound)
    thread.start()
    thread.join()
    assert calls == [1]


async def test_every_answer_says_its_times_and_guards_the_page(client: httpx.AsyncClient, query: str) -> None:
    start = time.perf_counter()
    response = await client.get("/api/search", params={"q": query})
    waited_ms = (time.perf_counter() - start) * 1000
    times = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert 0 <= float(times["engine"]) <= float(times["total"]) + 0.1 <= waited_ms + 0.2
    page = await client.get("/")
    assert "script" not in page.headers["content-security-policy"].replace("'self'", "")
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_the_page_and_all_it_names_come_from_here(client: httpx.AsyncClient) -> None:
    pages = [await client.get(path) for path in ("/", "/docs")]
    wanted = {name for page in pages for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)}
    assert {"/static/app.js", "/static/docs.js", "/static/style.css"} <= wanted
    while wanted:
        file = await client.get(path := wanted.pop())
        assert file.status_code == 200 and file.headers["cache-control"] == "no-cache"
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.text), f"{path} names another host"
        wanted |= {f"/static/{name}" for name in re.findall(r'from "\./([^"]+)"', file.text)} - {path}


# --- what is written down --------------------------------------------------------------------------------------------


def sample(text: str, name: str, **labels: str) -> float | None:
    """The value of one line of the metrics."""
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found and dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")) == labels:
            return float(found[2])
    return None


async def metrics(client: httpx.AsyncClient) -> str:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return response.text


async def test_requests_are_counted_by_route_and_status_class(client: httpx.AsyncClient, pictured: str) -> None:
    counted = [
        ("GET", f"/api/items/{pictured}", "/api/items/{item_id}", "2xx"),
        ("GET", "/api/items/not-this-one", "/api/items/{item_id}", "4xx"),
        ("GET", f"/api/items/{pictured}/photo", "/api/items/{item_id}/photo", "2xx"),
        ("GET", "/api/search?q=a-secret-query", "/api/search", "2xx"),
        ("GET", "/api/search?q=a-secret-query&k=0", "/api/search", "4xx"),
        ("GET", "/static/app.js", "/static/{file}", "2xx"),
        ("GET", "/static/none.js", "/static/{file}", "4xx"),
        ("GET", "/wp-login.php", "unmatched", "4xx"),
        ("DELETE", "/api/info", "/api/info", "4xx"),
        ("BREW", "/api/nowhere", "unmatched", "4xx"),
        ("GET", "/", "/", "2xx"),
    ]
    before = await metrics(client)
    for method, path, _, _ in counted:
        await client.request(method, path)
    after = await metrics(client)
    for method, path, route, status in counted:
        labels = {"method": "other" if method == "BREW" else method, "route": route, "status": status}
        same = sum((m, r, s) == (method, route, status) for m, _, r, s in counted)
        for name in ("triptych_http_requests_total", "triptych_http_request_duration_seconds_count"):
            assert sample(after, name, **labels) == (sample(before, name, **labels) or 0) + same, path
    for private in ("a-secret-query", pictured, "not-this-one", "wp-login", "BREW"):
        assert private not in after


async def test_times_fall_into_the_buckets_they_belong_to(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def slow() -> None:
        await anyio.sleep(0.06)

    app.add_api_route("/api/slow", slow, include_in_schema=False)
    await client.get("/api/slow")
    text = await metrics(client)
    labels = {"method": "GET", "route": "/api/slow", "status": "2xx"}
    name = "triptych_http_request_duration_seconds"
    assert sample(text, f"{name}_bucket", le="0.05", **labels) == 0
    assert sample(text, f"{name}_bucket", le="+Inf", **labels) == 1
    assert sample(text, f"{name}_sum", **labels) >= 0.06


async def test_refused_photos_are_counted_by_reason(client: httpx.AsyncClient) -> None:
    def refused(text: str) -> dict[str, float | None]:
        reasons = ("bytes", "pixels", "unreadable")
        return {reason: sample(text, "triptych_photos_refused_total", reason=reason) for reason in reasons}

    before = refused(await metrics(client))
    assert None not in before.values()  # they are there before the first
    for photo in (bytes(9 * 2**20), bytes(8 * 2**20 + 1), png_of(6000, 6000), b"no photo", png_of(10, 10)):
        await client.post("/api/search", files={"photo": ("p", photo)})
    row = {"item_id": "junk", "title": "Junk", "photo": base64.b64encode(b"junk").decode()}
    refusal(await client.post("/api/items", json={"items": [row]}), 422)
    refusal(await client.get("/api/search"), 422)  # refused, but not for a photo
    after = refused(await metrics(client))
    assert {reason: after[reason] - before[reason] for reason in after} == {"bytes": 2, "pixels": 1, "unreadable": 3}


async def test_metrics_tell_what_is_served(client: httpx.AsyncClient, engine: Engine, demo_run: Path) -> None:
    text = await metrics(client)
    assert sample(text, "triptych_ready") == 1
    assert sample(text, "triptych_catalogue_items") == engine.num_items
    assert sample(text, "triptych_added_items") == engine.info()["added_items"]
    info = engine.info()
    ids = {name: info["parts"][name] for name in ("catalogue", "encoder", "index")}
    assert sample(text, "triptych_model_info", version=package_version("triptych"), bundle=info["bundle"], **ids) == 1
    early = create_app(demo_run, allowed_hosts=["shop"])  # its lifespan does not run, so its engine is never opened
    async with httpx.AsyncClient(transport=httpx.ASGITransport(early), base_url="http://shop") as other:
        text = await metrics(other)
        assert sample(text, "triptych_ready") == 0
        assert sample(text, "triptych_catalogue_items") is None  # no number rather than a wrong one
        assert sample(text, "triptych_http_requests_total", method="GET", route="/api/search", status="2xx") is None


async def test_every_answer_has_an_id_and_keeps_a_proxys(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def broken_too() -> None:
        raise RuntimeError("secret detail")

    app.add_api_route("/api/broken-too", broken_too, include_in_schema=False)
    new = {(await client.get("/health")).headers["x-request-id"] for _ in range(5)}
    assert len(new) == 5 and all(re.fullmatch("[0-9a-f]{16}", one) for one in new)
    for path in ("/health", "/api/nothing", "/api/search", "/static/app.js", "/api/broken-too"):
        answer = await client.get(path, headers={"x-request-id": "proxy-42"})
        assert answer.headers.get_list("x-request-id") == ["proxy-42"], path
    refused = await client.get("/health", headers={"host": "evil.example", "x-request-id": "proxy-43"})
    assert refused.headers["x-request-id"] == "proxy-43"
    for forged in ("a b", "x" * 65, '"}\t{"', "é"):
        answer = await client.get("/health", headers={"x-request-id": forged.encode()})
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"]), forged


class Lines(logging.Handler):
    """Collects log lines as they would be written."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def written():
    """Collect the service's log lines: ``written(formatter)`` gives the list that they come to."""
    logger = logging.getLogger("triptych.serve")
    level, handlers = logger.level, []

    def collect(formatter: logging.Formatter) -> list[str]:
        handler = Lines(formatter)
        handlers.append(handler)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        return handler.lines

    yield collect
    for handler in handlers:
        logger.removeHandler(handler)
    logger.setLevel(level)


async def test_each_request_is_one_line_of_json_without_what_was_searched(
    client: httpx.AsyncClient, written, pictured: str
) -> None:
    lines = written(JsonLines())
    upload = {"photo": ("p.jpg", jpeg((1, 2, 3)))}
    responses = [
        await client.get("/api/search", params={"q": "a secret", "k": 3}),
        await client.post("/api/search", data={"q": "a secret"}, files=upload),
        await client.get(f"/api/items/{pictured}"),
        await client.get("/a/secret/path"),
        await client.get("/api/search", params={"q": "a secret", "k": 0}),
    ]
    told = [json.loads(line) for line in lines]
    assert [set(one) for one in told] == [{"time", "level", "method", "route", "status", "ms", "request_id"}] * 5
    assert [(one["method"], one["route"], one["status"]) for one in told] == [
        ("GET", "/api/search", 200),
        ("POST", "/api/search", 200),
        ("GET", "/api/items/{item_id}", 200),
        ("GET", "unmatched", 404),
        ("GET", "/api/search", 422),
    ]
    assert [one["request_id"] for one in told] == [one.headers["x-request-id"] for one in responses]
    for one, response in zip(told, responses, strict=True):
        total_ms = float(re.search(r"total;dur=([\d.]+)", response.headers["server-timing"])[1])
        assert one["ms"] >= total_ms - 0.2
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["time"])
    assert "secret" not in "".join(lines)


async def test_a_line_of_text_says_the_same(client: httpx.AsyncClient, written) -> None:
    lines = written(TextLines())
    answer = await client.get("/api/search", params={"q": "a secret"})
    request_id = answer.headers["x-request-id"]
    assert re.fullmatch(rf"\S+Z info GET /api/search 200 \d+\.\d ms \[{request_id}\]", lines[0])
    assert len(lines) == 1


async def test_queries_are_logged_where_they_were_asked_for(engine: Engine, written) -> None:
    app = create_app(engine, allowed_hosts=["shop"], config=ServeConfig(log_queries=True))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        await wait_until_ready(client)
        as_json, as_text = written(JsonLines()), written(TextLines())
        await client.get("/api/search", params={"q": 'red "vase"\nGET / 200'})
        await client.post("/api/search", data={"q": "blue"}, files={"photo": ("", b"")})
        await client.get("/api/facets")
    assert [json.loads(line).get("query") for line in as_json] == ['red "vase"\nGET / 200', "blue", None]
    assert r'"red \"vase\"\nGET / 200"' in as_text[0] and "\n" not in as_text[0]  # a query forges no line


async def test_a_defect_is_logged_with_the_id_of_its_request(app: FastAPI, written) -> None:
    """The server logs what the application raises, in the task that ran the application: so does this one."""

    async def broken_again() -> None:
        raise RuntimeError("the cause")

    app.add_api_route("/api/broken-again", broken_again, include_in_schema=False)
    as_json, as_text = written(JsonLines()), written(TextLines())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        try:
            await client.get("/api/broken-again", headers={"x-request-id": "proxy-7"})
        except RuntimeError:
            logging.getLogger("triptych.serve").exception("Exception in ASGI application\n")
    assert json.loads(as_json[0])["status"] == 500
    told = json.loads(as_json[1])
    assert told["request_id"] == "proxy-7" and told["message"] == "Exception in ASGI application"
    assert "RuntimeError: the cause" in told["exception"]
    assert "Exception in ASGI application [proxy-7]\nTraceback" in as_text[1]


# --- listening -------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_told_with_what_to_do() -> None:
    first = listen("127.0.0.1", 0)
    try:
        port = first[0].getsockname()[1]
        assert url("127.0.0.1", first) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=rf"Port {port} of 127.0.0.1 is in use; choose another with --port"):
            listen("127.0.0.1", port)
    finally:
        first[0].close()
    listen("127.0.0.1", port)[0].close()  # free again


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("192.0.2.1", "'192.0.2.1' is no address of this machine; give one with --host"),
        ("no such host", "'no such host' is no host that this machine knows"),
    ],
)
def test_a_host_that_is_not_this_machine_is_told(host: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        listen(host, 0)


def test_a_port_that_needs_rights_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", denied)
    with pytest.raises(
        ConfigError, match="Port 80 of 127.0.0.1 needs rights that you do not have; choose one from 1024"
    ):
        listen("127.0.0.1", 80)


def test_a_name_of_several_addresses_is_listened_on_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    sockets = listen("shop", 0)
    try:
        names = [one.getsockname() for one in sockets]
        assert [host for host, _ in names] == ["127.0.0.1", "127.0.0.2"]
        assert len({port for _, port in names}) == 1
        assert url("0.0.0.0", sockets) == f"http://127.0.0.1:{names[0][1]}"
    finally:
        for one in sockets:
            one.close()


def test_a_service_whose_engine_cannot_be_opened_ends_and_says_why(
    demo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triptych.serve.logs.set_up", lambda log_format: None)  # it would take pytest's own log
    shutil.copytree(demo_run, tmp_path / "run", symlinks=True)
    for index in (tmp_path / "run" / "index").glob("*/artifact.json"):
        manifest = json.loads(index.read_text())
        manifest["config"]["a_setting_of_old"] = 1
        index.write_text(json.dumps(manifest))
    listening: list[str] = []
    with pytest.raises(ArtifactError, match="made by another version of triptych .*a_setting_of_old.*Run the same"):
        triptych.serve.run(tmp_path / "run", port=0, when_listening=listening.append)
    assert len(listening) == 1
