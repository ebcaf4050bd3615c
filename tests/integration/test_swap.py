"""A run takes over from another under load, and items change over HTTP: no request fails, nothing told is lost."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import anyio
import httpx
import pytest
from tiny_shop import ITEMS, NUM_ITEMS, photo, write_run

from triptych.engine import Engine
from triptych.foundation.errors import ConfigError
from triptych.serve import create_app

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs: other encoders over the same catalogue, and over one with an item more."""
    folder = tmp_path_factory.mktemp("runs")
    more = [*ITEMS, {**ITEMS[1], "item_id": "late", "title": "an item of the new tables"}]
    return [write_run(folder / f"run{seed}", seed=seed, items=more if seed == 2 else None).path for seed in range(3)]


class Service:
    """A service with its client, as `async with`."""

    def __init__(self, engine, **options):
        self.app = create_app(engine, allowed_hosts=["shop"], **options)

    async def __aenter__(self):
        self._life = self.app.router.lifespan_context(self.app)
        await self._life.__aenter__()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://shop")
        with anyio.fail_after(300):
            while (await self.client.get("/ready")).status_code != 200:
                await anyio.sleep(0.01)
        return self

    async def __aexit__(self, *raised):
        await self.client.aclose()
        await self._life.__aexit__(*raised)

    async def serving(self):
        answer = await self.client.get("/ready")
        assert answer.status_code == 200, answer.text
        return answer.json()["serving"]

    async def until(self, generation):
        with anyio.fail_after(300):
            while (await self.serving())["generation"] < generation:
                await anyio.sleep(0.01)


@pytest.fixture
def current(runs, tmp_path):
    """A link to the first run, as people have it."""
    link = tmp_path / "current"
    link.symlink_to(runs[0])
    return link


def point(link, run):
    beside = link.with_name("beside")
    beside.symlink_to(run)
    beside.replace(link)


def row(item_id, **columns):
    return {"item_id": item_id, "title": f"velvet {item_id}", **columns}


def detail(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["detail"]


# --- a run takes over


async def test_two_runs_take_over_under_load_and_no_request_fails(runs, current, tmp_path):
    addresses = set()
    seen = {number: [] for number in range(3)}
    kept = {}
    versions = [Engine.open(run).version for run in runs]
    async with Service(current, journal=tmp_path / "journal") as service:
        client, done = service.client, anyio.Event()

        async def get(path, **parameters):
            response = await client.get(path, params=parameters)
            assert response.is_success, f"{path}: {response.status_code} {response.text[:200]}"
            return response

        async def hammer(number):
            place = 0
            while not done.is_set():
                place += 1
                found = (await get("/api/search", q="red shirt", k=8, min_price=1)).json()["hits"]
                photos = [hit["item"]["photo_url"] for hit in found if hit["item"]["photo_url"]]
                seen[number] += [re.search(r"v=([0-9a-f]+)", address)[1] for address in photos]
                addresses.update(photos)
                await get(photos[place % len(photos)])
                await get(sorted(addresses)[place % len(addresses)])  # of a page that has long been open
                await get(f"/api/similar/i{place % NUM_ITEMS}", k=5)
                await get(f"/api/items/i{place % NUM_ITEMS}")
                await get("/api/recommend/u1", k=5)
                await get("/api/facets")
                seen[number].append((await get("/api/info")).json()["serving"]["run"])
                await anyio.sleep(0.02)

        async def write():
            place = 0
            while not done.is_set():
                name, title = f"n{place % 15}", f"velvet {place}"
                put = await client.put("/api/items", json={"items": [{"item_id": name, "title": title}]})
                kept[name] = title
                gone = put
                if place % 4 == 3:
                    gone = await client.delete(f"/api/items/{name}")
                    del kept[name]
                assert put.is_success and gone.is_success, put.text + gone.text
                if name in kept:  # who is told that it is made sees it
                    assert (await get(f"/api/items/{name}")).json()["title"] == title
                place += 1
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as group:
            for number in seen:
                group.start_soon(hammer, number)
            group.start_soon(write)
            for generation, (run, version) in enumerate(zip(runs, versions, strict=True), start=1):
                if generation > 1:
                    point(current, run)
                    service.app.state.runtime.reload()
                    await service.until(generation)
                with anyio.fail_after(300):
                    while len(kept) < 6 or any(version not in order for order in seen.values()):
                        await anyio.sleep(0.01)
            done.set()
        for number, order in seen.items():
            places = [versions.index(version) for version in order]
            assert places == sorted(places), f"client {number} went back to an older run"
            assert set(places) == {0, 1, 2}
        assert await service.serving() == {"run": versions[2], "generation": 3}
        titles = {name: (await get(f"/api/items/{name}")).json()["title"] for name in kept}
        assert titles == kept
        assert (await get("/api/items/late")).json()["title"] == "an item of the new tables"
        text = (await client.get("/metrics")).text
        assert "triptych_generation 3.0" in text and "triptych_failed_swaps_total 0.0" in text
    again = Engine.open(runs[2], journal=tmp_path / "journal")
    assert {name: again.item(name)["title"] for name in kept} == kept
    assert again.num_items == NUM_ITEMS + 1 + len(kept)
    again.close()


async def test_a_run_that_cannot_be_opened_leaves_the_old_one_and_says_why(runs, current, tmp_path, caplog):
    shutil.copytree(runs[1], tmp_path / "broken")
    for index in (tmp_path / "broken" / "index").glob("*/vectors.npy"):
        index.unlink()
    async with Service(current, journal=tmp_path / "journal") as service:
        before = await service.serving()
        await service.client.post("/api/items", json={"items": [row("n1")]})
        for number, run in enumerate((tmp_path / "broken", tmp_path / "nowhere"), start=1):
            with caplog.at_level(logging.ERROR):
                service.app.state.runtime.reload(run)
                with anyio.fail_after(300):
                    while f"triptych_failed_swaps_total {number}.0" not in (await service.client.get("/metrics")).text:
                        await anyio.sleep(0.01)
            assert await service.serving() == before
            assert (await service.client.get("/api/items/n1")).is_success
            assert f"cannot be served, so run {before['run']} goes on to be: " in caplog.text
        assert "vectors.npy" in caplog.text and "There is no run in" in caplog.text
        assert (await service.client.post("/api/items", json={"items": [row("n2")]})).status_code == 201
        service.app.state.runtime.reload(runs[1])  # and another one may still take over
        await service.until(2)
        assert (await service.client.get("/api/items/n2")).is_success


async def test_a_run_that_is_served_already_is_not_opened_again(runs, current, caplog):
    async with Service(current) as service:
        engine = service.app.state.runtime.engine
        with caplog.at_level(logging.INFO, logger="triptych.serve"):
            service.app.state.runtime.reload()
            with anyio.fail_after(300):
                while "is the one that is served" not in caplog.text:
                    await anyio.sleep(0.01)
        assert service.app.state.runtime.engine is engine
        for run in runs[1:]:  # asked for at once: the last one is served in the end
            service.app.state.runtime.reload(run)
        with anyio.fail_after(300):
            while (await service.serving())["run"] != Engine.open(runs[2]).version:
                await anyio.sleep(0.01)


async def test_a_service_of_an_open_engine_is_told_which_run(runs, tmp_path):
    async with Service(Engine.open(runs[0])) as service:
        with pytest.raises(ConfigError, match="say which run it is to open"):
            service.app.state.runtime.reload()
        service.app.state.runtime.reload(runs[1])
        await service.until(2)
    with pytest.raises(ConfigError, match="name the journal where it is opened"):
        create_app(Engine.open(runs[0]), journal=tmp_path)
    with pytest.raises(ConfigError, match="There is no journal to carry over"):
        create_app(runs[0], carry_over=True)


async def test_photo_addresses_tell_runs_and_changes_apart_and_old_ones_answer(runs, current, tmp_path):
    def address(item):
        return item.json()["photo_url"]

    async with Service(current, journal=tmp_path / "journal") as service:
        client = service.client
        sent = [base64.b64encode(photo(place)).decode() for place in (3, 20)]
        addresses = [address(await client.get("/api/items/i2"))]
        for content in sent:
            assert (await client.put("/api/items", json={"items": [row("i2", photo=content)]})).is_success
            addresses.append(address(await client.get("/api/items/i2")))
        shown = (await client.get(addresses[-1])).content
        service.app.state.runtime.reload(runs[1])
        await service.until(2)
        addresses.append(address(await client.get("/api/items/i2")))
        addresses.append(address(await client.get("/api/items/i3")))
        assert len(set(addresses)) == 5
        for one in addresses[:4]:
            answer = await client.get(one)
            assert answer.content == shown and answer.headers["cache-control"] == "public, max-age=86400"
        last = addresses[3]
    async with Service(runs[1], journal=tmp_path / "journal") as service:
        assert address(await service.client.get("/api/items/i2")) == last  # a photo kept by a browser stays good


# --- changes over HTTP


async def test_items_are_replaced_and_removed_over_http(runs):
    async with Service(Engine.open(runs[0])) as service:
        client = service.client
        name = "dept%2F7%20%C2%BD%3F%23"  # dept/7 ½?#
        replaced = await client.put("/api/items", json={"items": [row("i1", price=3), row("dept/7 ½?#")]})
        assert replaced.status_code == 200
        assert replaced.json() == {"item_ids": ["i1", "dept/7 ½?#"], "num_items": NUM_ITEMS + 1}
        item = (await client.get("/api/items/i1")).json()
        assert (item["title"], item["price"], item["photo_url"]) == ("velvet i1", 3, None)
        gone = await client.delete(f"/api/items/{name}")
        assert (gone.status_code, gone.json()) == (200, {"item_ids": ["dept/7 ½?#"], "num_items": NUM_ITEMS})
        assert "no item 'dept/7" in detail(await client.delete(f"/api/items/{name}"), 404)
        assert "no item 'i1x'" in detail(await client.post("/api/items/remove", json={"item_ids": ["i2", "i1x"]}), 422)
        assert (await client.get("/api/items/i2")).is_success
        many = await client.post("/api/items/remove", json={"item_ids": ["i1", "i2", "i3"]})
        assert many.json() == {"item_ids": ["i1", "i2", "i3"], "num_items": NUM_ITEMS - 3}
        found = (await client.get("/api/search", params={"q": "velvet shirt", "k": 100})).json()
        assert {"i1", "i2", "i3"}.isdisjoint(hit["item"]["item_id"] for hit in found["hits"])
        assert found["num_items"] == len(found["hits"]) == NUM_ITEMS - 3
        for path in ("/api/items/i1", "/api/items/i1/photo", "/api/similar/i1"):
            assert "no item 'i1'" in detail(await client.get(path), 404)
        assert (await client.post("/api/items", json={"items": [row("i1")]})).status_code == 201


async def test_wrong_changes_are_refused_as_wrong_additions_are(runs):
    async with Service(Engine.open(runs[0])) as service:
        client, before = service.client, service.app.state.runtime.engine.item("i1")
        big = base64.b64encode(b"x" * (9 * 2**20)).decode()
        body = b'{"items": [{"item_id": "i1", "title": "smuggled"}]}'
        for answer, status, sentence in (
            (await client.put("/api/items", json={"items": []}), 422, "items: "),
            (await client.put("/api/items", json={"items": [{"item_id": "i1"}]}), 422, "neither a title nor a photo"),
            (
                await client.put("/api/items", json={"items": [row("i1", photo=big)]}),
                413,
                "The photo of 'i1' is larger",
            ),
            (await client.put("/api/items", content=body, headers={"content-type": "text/plain"}), 422, ""),
            (await client.post("/api/items/remove", json={"item_ids": []}), 422, "item_ids: "),
            (await client.post("/api/items/remove", json={"item_ids": ["x" * 501]}), 422, "at most 500 characters"),
            (await client.post("/api/items/remove", json={"ids": ["i1"]}), 422, "Known are: item_ids"),
            (await client.delete("/api/items"), 405, ""),
        ):
            assert sentence in detail(answer, status)
        assert service.app.state.runtime.engine.item("i1") == before


async def test_a_change_that_cannot_be_stored_is_507(runs, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    async with Service(runs[0], journal=tmp_path / "journal") as service:
        monkeypatch.setattr("triptych.engine.journal._write", fail)
        answer = await service.client.post("/api/items", json={"items": [row("n1")]})
        assert detail(answer, 507) == "The change could not be stored, so it was not made."
        assert "No space left on device" in caplog.text
        assert (await service.client.get("/api/items/n1")).status_code == 404


# --- as a process


def started(run, *options, terminal=None):
    """Start ``triptych serve`` and return it with its address."""
    script = "from triptych.cli import main; import sys; main()"
    if terminal is not None:
        # As a terminal starts it: what hangs up ends it, even where these tests themselves run under nohup.
        own = "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
        script = f"{own}; signal.signal(signal.SIGHUP, signal.SIG_DFL); {script}"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "serve", str(run), "--port", "0", *map(str, options)],
        stdin=terminal if terminal is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    line = process.stdout.readline()
    assert f"kill -HUP {process.pid}" in line
    address = re.search(r"http://\S+:\d+", line)[0]
    wait(lambda: json.load(urlopen(f"{address}/ready"))["status"] == "ready")
    return process, address


def wait(until):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if until():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("it took more than five minutes")


def test_sighup_has_a_service_open_its_run_again(runs, current, tmp_path):
    process, address = started(current, "--journal", tmp_path / "journal")
    with process:
        try:
            assert json.load(urlopen(f"{address}/ready"))["serving"]["generation"] == 1
            point(current, runs[2])
            process.send_signal(signal.SIGHUP)
            wait(lambda: json.load(urlopen(f"{address}/ready"))["serving"]["generation"] == 2)
            assert json.load(urlopen(f"{address}/api/items/late"))["item_id"] == "late"
        finally:
            process.send_signal(signal.SIGINT)
        told = process.stderr.read()
        assert process.wait(120) == 0
    assert re.search(r"Run [0-9a-f]{10} is served now, in the place of [0-9a-f]{10}", told)


def test_a_terminal_that_is_closed_ends_its_service(runs):
    ours, terminal = os.openpty()
    process, _ = started(runs[0], terminal=terminal)
    os.close(terminal)
    with process:
        os.close(ours)
        try:
            assert process.wait(120) == 0
        finally:
            process.kill()
