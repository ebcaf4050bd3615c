"""The search page in headless Chromium, over a finished run served by uvicorn: what a visitor sees and can do."""

from __future__ import annotations

import io
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from small_demo import preferring_the_ranker
from tiny_shop import write_run

from triptych.engine import Engine, Filters
from triptych.serve import create_app

CHROMIUM = shutil.which("chromium")
playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH: apt install chromium"),
]

from playwright.sync_api import Browser, Page, Route, expect  # noqa: E402  (after the skip)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TRAP = """<img src=x onerror="window.trapped=1"><script>window.trapped=1</script>'"&amp; lamp"""
SENTENCE = "The service failed on this request; its log has the cause."


@pytest.fixture(scope="module")
def engine(demo_run: Path) -> Engine:
    engine = Engine.open(demo_run)
    photo = io.BytesIO()
    Image.new("RGB", (90, 90), (200, 30, 30)).save(photo, "PNG")
    engine.add_items(
        [
            {"item_id": "trap/1", "title": TRAP, "category": TRAP, "photo": photo.getvalue(), "price": 3.5},
            {"item_id": "bare", "title": "Bare item", "category": "Bare things", "price": 4.0},
        ]
    )
    return engine


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with served(engine) as at:
        yield at


@contextmanager
def served(engine: Engine) -> Iterator[str]:
    """Serve an engine; gives the address."""
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(engine), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the service did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=20)


@contextmanager
def visited(page: Page, engine: Engine) -> Iterator[str]:
    """Serve another engine to a page; the page has left before the service ends.

    A page that is still there asks a closed port for the photos it had not loaded yet, and its console complains.
    """
    with served(engine) as at:
        yield at
        page.goto("about:blank")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console complained about; a test that expects some empties it."""
    return []


@pytest.fixture
def page(browser: Browser, address: str, complaints: list[str]) -> Iterator[Page]:
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def query(engine: Engine) -> str:
    return engine.example_queries(1)[0]


def cards(page: Page):
    return page.locator("#results .card:not(.skeleton)")


def shown_ids(page: Page) -> list[str]:
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    return cards(page).evaluate_all("nodes => nodes.map((node) => node.dataset.itemId)")


def search(page: Page, words: str) -> None:
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("searchbox").press("Enter")
    expect(page.get_by_role("heading", name=f"“{words}”")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text(" ms")


def test_the_start_page_offers_something_to_do(page: Page, engine: Engine, query: str) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="Popular now")).to_be_visible()
    expect(cards(page).first).to_be_visible()
    assert len(shown_ids(page)) > 8
    page.get_by_role("list", name="Try").get_by_role("button", name=query, exact=True).click()
    expect(page).to_have_url(re.compile(r"\?q="))
    expect(page.get_by_role("heading", name=f"“{query}”")).to_be_visible()
    expect(page).to_have_title(f"“{query}” · Triptych")


def test_typing_a_query_gives_the_engines_results(page: Page, engine: Engine, query: str) -> None:
    page.goto("/")
    search(page, query)
    expected = [hit.item_id for hit in engine.search(query, k=24)]
    expect(cards(page)).to_have_count(len(expected))
    assert shown_ids(page) == expected
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^The 24 best of [\d,]+ items · [\d.]+ ms$"))
    first = engine.item(expected[0])
    expect(cards(page).first).to_contain_text(first["title"])
    photo = cards(page).first.locator("img")
    expect(photo).to_be_visible()
    assert photo.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_show_more_adds_to_the_same_grid(page: Page, engine: Engine, query: str) -> None:
    page.goto("/")
    expect(cards(page).first).to_be_visible()
    before = shown_ids(page)
    page.get_by_role("button", name="Show more").click()
    expect(cards(page)).to_have_count(len(before) + 24)
    assert shown_ids(page)[: len(before)] == before
    assert len(set(shown_ids(page))) == len(before) + 24
    page.goto(f"/?q={quote(query)}")
    expect(cards(page)).to_have_count(24)
    page.get_by_role("button", name="Show more").click()
    expect(cards(page)).to_have_count(48)
    assert shown_ids(page) == [hit.item_id for hit in engine.search(query, k=48)]
    expect(page).to_have_url(re.compile("k=48"))


def test_filters_narrow_and_can_be_taken_back(page: Page, engine: Engine, query: str) -> None:
    page.goto(f"/?q={quote(query)}")
    category = max(engine.facets().categories, key=engine.facets().categories.__getitem__)
    page.get_by_role("radio", name=category).check()
    expect(page).to_have_url(re.compile("category="))
    for item_id in shown_ids(page):
        assert engine.item(item_id)["category"] == category
    cell = next(iter(engine.facets().cells))
    page.get_by_label("Delivery cell").select_option(cell)
    expect(page).to_have_url(re.compile("cell="))
    prices = sorted(engine.item(item_id)["price"] for item_id in shown_ids(page))
    middle = prices[len(prices) // 2]
    page.get_by_label("Highest price").fill(str(middle))
    page.get_by_label("Highest price").press("Enter")
    expect(page).to_have_url(re.compile("max_price="))
    for item_id in shown_ids(page):
        shown = engine.item(item_id)
        assert shown["category"] == category and cell in shown["cells"] and shown["price"] <= middle
    chips = page.get_by_role("list", name="Active filters").get_by_role("button")
    expect(chips).to_have_count(3)
    chips.first.click()
    expect(chips).to_have_count(2)
    page.get_by_role("button", name="Clear all filters").click()
    expect(chips).to_have_count(0)
    expect(cards(page)).to_have_count(24)
    assert shown_ids(page) == [hit.item_id for hit in engine.search(query, k=24)]


def test_prices_in_the_wrong_order_are_caught_before_asking(page: Page, query: str) -> None:
    page.goto(f"/?q={quote(query)}&max_price=5")
    expect(cards(page).first).to_be_visible()  # what is typed before the page has begun is lost
    page.get_by_label("Lowest price").fill("9")
    page.get_by_label("Lowest price").press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The lowest price is above the highest.")
    expect(page).not_to_have_url(re.compile("min_price"))


def test_a_photo_is_a_query_and_survives_reload_and_words(page: Page, engine: Engine, query: str) -> None:
    wanted = next(hit.item_id for hit in engine.search(query, k=50) if engine.photo_jpeg(hit.item_id))
    upload = {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": engine.photo_jpeg(wanted)}
    page.goto("/")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Search by photo").click()
    chooser.value.set_files([upload])
    expect(page.get_by_role("heading", name="Like your photo")).to_be_visible()
    expect(cards(page)).to_have_count(24)
    found = shown_ids(page)  # the page makes the photo a JPEG anew, so the last places may differ from the engine's
    assert len(set(found) & {hit.item_id for hit in engine.search(photo=upload["buffer"], k=24)}) > 12
    page.reload()
    expect(cards(page)).to_have_count(24)
    assert shown_ids(page) == found
    search_box = page.get_by_role("searchbox")
    search_box.fill(query)
    search_box.press("Enter")
    expect(page.get_by_role("heading", name=f"“{query}”, like your photo")).to_be_visible()
    page.get_by_role("button", name="Remove the photo").click()
    expect(page.get_by_role("heading", name=f"“{query}”", exact=True)).to_be_visible()
    expect(page).not_to_have_url(re.compile("photo="))


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_photo_can_be_pasted_and_dropped(page: Page, way: str) -> None:
    page.goto("/")
    expect(cards(page).first).to_be_visible()
    page.evaluate(
        """async (way) => {
            const canvas = new OffscreenCanvas(40, 40);
            canvas.getContext("2d").fillRect(0, 0, 20, 40);
            const data = new DataTransfer();
            data.items.add(new File([await canvas.convertToBlob()], "p.png", { type: "image/png" }));
            const event = way === "paste"
                ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        way,
    )
    expect(page.get_by_role("heading", name="Like your photo")).to_be_visible()
    expect(cards(page)).to_have_count(24)


def test_a_shared_address_of_a_photo_search_says_what_is_missing(page: Page) -> None:
    page.goto("/?photo=somebody-elses")
    expect(page.get_by_role("heading", name="The photo stayed behind")).to_be_visible()
    expect(page.get_by_role("button", name="Choose a photo")).to_be_visible()


def test_why_tells_what_title_photo_and_past_choices_add(page: Page, engine: Engine, query: str) -> None:
    page.goto(f"/?q={quote(query)}")
    hit = engine.search(query, k=24)[2]
    why = engine.why(hit.item_id, query=query)
    cards(page).nth(2).get_by_role("button", name="Why this result").click()
    panel = page.get_by_role("dialog", name="Why this result")
    expect(panel).to_be_visible()
    values = panel.locator(".bars .bar-value")
    expect(values).to_have_count(4)
    without = (why.without_title, why.without_photo, why.without_clicks)
    adds = [why.score, *(why.unmasked - other for other in without)]
    for shown, expected in zip(values.all_inner_texts(), adds, strict=True):
        assert float(shown.replace("−", "-")) == pytest.approx(expected, abs=0.0051)
    assert sorted(panel.locator(".words mark").all_inner_texts()) == sorted(why.shared_words)
    if why.shared_words:
        assert panel.locator(".about .title mark").count() >= 1
    expect(page).to_have_url(re.compile(f"item={re.escape(quote(hit.item_id, safe=''))}"))
    page.go_back()
    expect(panel).to_be_hidden()
    expect(page).to_have_url(re.compile(r"\?q=[^&]+$"))


def test_the_panel_shows_the_semantic_id_and_leads_to_who_shares_it(page: Page, engine: Engine, query: str) -> None:
    page.goto(f"/?q={quote(query)}")
    hit = engine.search(query, k=1)[0]
    path = engine.code_path(hit.item_id, k=5)
    cards(page).first.get_by_role("button", name="Why this result").click()
    codes = page.locator("#why .codes")
    own = [str(code) for code in path.codes]
    expect(codes.locator("dt")).to_have_count(len(own))
    for place, step in enumerate(path.steps):
        assert codes.locator("dt").nth(place).locator("code").all_inner_texts() == own[: step.codes_shared]
        expect(codes.locator("dd").nth(place).get_by_role("button")).to_have_count(len(step.hits))
    neighbour = next(other for step in path.steps for other in step.hits)
    codes.get_by_role("button").first.click()
    expect(page).to_have_url(re.compile(f"item={re.escape(quote(neighbour.item_id, safe=''))}"))
    expect(page.locator("#why .about .title")).to_have_text(engine.item(neighbour.item_id)["title"])


def branches(page: Page):
    return page.locator("#branches .branch:not(.skeleton)")


def shown_branches(page: Page) -> list[tuple[str, int]]:
    """The prefixes of the cards with their numbers of items, in order."""
    texts = branches(page).evaluate_all("nodes => nodes.map((node) => node.querySelector('.branch-head').innerText)")
    return [(code, int(number)) for code, number in (re.findall(r"^([\d.]+)\s+(\d+) item", text)[0] for text in texts)]


def test_the_tree_of_codes_is_walked_down_to_the_items_and_back(page: Page, engine: Engine) -> None:
    page.goto("/")
    page.locator("footer").get_by_role("link", name="Semantic IDs").click()
    expect(page).to_have_url(re.compile(r"\?codes=$"))
    expect(page.get_by_role("heading", name="Semantic IDs")).to_be_focused()
    walked: list[int] = []
    for _ in range(3):
        found = engine.code_tree(walked)
        expect(branches(page)).to_have_count(len(found.branches))
        assert shown_branches(page) == [
            (".".join(map(str, [*walked, one.code])), one.num_items) for one in found.branches
        ]
        first = found.branches[0]
        expect(branches(page).first.locator(".tile")).to_have_count(len(first.hits))
        few = [one for one in found.branches if len(one.hits) <= 4]  # their titles have the room of the other photos
        expect(page.locator(".branch-names")).to_have_count(len(few))
        if few:
            titles = [engine.item(hit.item_id)["title"] for hit in few[0].hits]
            assert page.locator(".branch-names").first.locator("span").all_text_contents() == titles
        expect(page.get_by_role("status")).to_contain_text(f"{found.num_items} item")
        empty = found.num_codes - found.num_branches
        expect(page.get_by_role("status")).to_contain_text(f"({empty} stand for no item)" if empty else "of 3 ·")
        walked.append(first.code)
        branches(page).first.get_by_role("link").click()
        expect(page).to_have_url(re.compile(rf"\?codes={re.escape('.'.join(map(str, walked)))}$"))
    expect(cards(page).first).to_be_visible()
    assert shown_ids(page) == [hit.item_id for hit in engine.code_tree(walked).hits]
    expect(branches(page)).to_have_count(0)
    crumbs = page.get_by_role("navigation", name="Prefix")
    assert crumbs.get_by_role("listitem").all_inner_texts() == ["All IDs", *map(str, walked)]
    cards(page).first.get_by_role("button", name="Why this result").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Its semantic ID is {'.'.join(map(str, walked))}")
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.go_back()
    expect(branches(page)).to_have_count(len(engine.code_tree(walked[:2]).branches))
    expect(cards(page)).to_have_count(0)
    crumbs.get_by_role("link", name=str(walked[0]), exact=True).click()
    expect(page).to_have_url(re.compile(rf"\?codes={walked[0]}$"))
    expect(branches(page)).to_have_count(len(engine.code_tree(walked[:1]).branches))
    search(page, "teapot")
    expect(page).to_have_url(re.compile(r"\?q=teapot$"))
    expect(branches(page)).to_have_count(0)


def test_a_place_in_the_tree_has_an_address_and_is_reached_from_an_item(
    page: Page, engine: Engine, complaints: list[str]
) -> None:
    asked = engine.search(channel="popularity", k=1)[0].item_id
    path = engine.code_path(asked).codes
    page.goto(f"/?item={quote(asked)}")
    page.locator("#why").get_by_role("link", name=f"All items under {path[0]}", exact=True).click()
    expect(page.get_by_role("heading", name=f"Items under {path[0]}")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.goto(f"/?codes={path[0]}.{path[1]}&q=nothing")
    expect(branches(page)).to_have_count(len(engine.code_tree(path[:2]).branches))
    expect(page).to_have_title(f"Items under {path[0]}.{path[1]} · Triptych")
    page.goto("/?codes=")
    expect(branches(page)).to_have_count(60)
    page.get_by_role("button", name="Show more").click()
    expect(branches(page)).to_have_count(engine.code_tree().num_branches)
    expect(branches(page).nth(60).get_by_role("link")).to_be_focused()
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    page.goto("/?codes=9999")
    expect(page.get_by_role("alert")).to_contain_text("No item's semantic ID begins with 9999.")
    page.get_by_role("button", name="All semantic IDs").click()
    expect(branches(page).first).to_be_visible()
    assert len(complaints) == 1 and "404" in complaints.pop()


def test_without_semantic_ids_nothing_leads_to_them(page: Page, tmp_path: Path, complaints: list[str]) -> None:
    with visited(page, Engine.open(write_run(tmp_path / "shop").path)) as at:
        page.goto(at)
        expect(page.locator("#foot-about")).to_contain_text("items")
        expect(page.get_by_role("link", name="Semantic IDs")).to_have_count(0)
        page.goto(f"{at}/?codes=1")
        expect(page.get_by_role("alert")).to_contain_text("This shop has no semantic IDs.")
        expect(page.get_by_role("navigation", name="Prefix")).to_be_hidden()
        page.get_by_role("button", name="Start over").click()
        expect(page.get_by_role("heading", name="Popular now")).to_be_visible()
    assert len(complaints) == 1 and "422" in complaints.pop()


def test_the_best_is_what_the_recall_model_finds_and_meaning_asks_the_encoder(
    page: Page, engine: Engine, query: str
) -> None:
    page.goto(f"/?q={quote(query)}")
    expect(page.get_by_role("radio", name="Best")).to_be_checked()
    assert shown_ids(page) == [hit.item_id for hit in engine.search(query, k=24, channel="recall")]
    page.get_by_role("radio", name="Meaning").check()
    expect(page).to_have_url(re.compile("channel=dense"))
    by_meaning = [hit.item_id for hit in engine.search(query, k=24, channel="dense")]
    expect(cards(page).first).to_have_attribute("data-item-id", by_meaning[0])
    assert shown_ids(page) == by_meaning


def test_fused_channels_are_offered_where_there_are_some_and_say_who_found_an_item(
    page: Page, query: str, hybrid_run: Path
) -> None:
    page.goto(f"/?q={quote(query)}")
    expect(cards(page).first).to_be_visible()
    expect(page.get_by_role("radio", name="Fused")).to_be_hidden()
    shop = Engine.open(hybrid_run)
    with visited(page, shop) as at:
        page.goto(f"{at}/?q={quote(query)}")
        page.get_by_role("radio", name="Fused").check()
        expect(page).to_have_url(re.compile("channel=hybrid"))
        answer = shop.search(query, k=24, channel="hybrid", explain=True)
        expect(cards(page).first).to_have_attribute("data-item-id", answer[0].item_id)
        assert shown_ids(page) == [hit.item_id for hit in answer]
        cards(page).first.locator(".open").click()
        places = page.locator("#why .reason dd")
        expect(places.first).to_be_visible()
        assert places.all_text_contents() == [f"place {place}" for place in answer[0].why.found_by.values()]


def test_a_decoder_of_semantic_ids_is_offered_where_there_is_one_and_says_how_likely_an_item_is(
    page: Page, query: str, hybrid_run: Path
) -> None:
    page.goto(f"/?q={quote(query)}")
    expect(cards(page).first).to_be_visible()
    expect(page.get_by_role("radio", name="Codes")).to_be_hidden()
    shop = Engine.open(hybrid_run)
    with visited(page, shop) as at:
        page.goto(f"{at}/?q={quote(query)}")
        page.get_by_role("radio", name="Codes").check()
        expect(page).to_have_url(re.compile("channel=generative"))
        answer = shop.search(query, k=24, channel="generative")
        expect(cards(page).first).to_have_attribute("data-item-id", answer[0].item_id)
        assert shown_ids(page) == [hit.item_id for hit in answer]
        cards(page).first.locator(".open").click()
        expect(page.locator("#why .reason", has_text="The decoder gives that ID")).to_be_visible()


def test_a_ranked_answer_says_where_an_item_stood_before(
    page: Page, query: str, ranked_run: Path, tmp_path: Path
) -> None:
    shop = Engine.open(preferring_the_ranker(ranked_run, tmp_path / "run"))
    with visited(page, shop) as at:
        page.goto(f"{at}/?q={quote(query)}")
        answer = shop.search(query, k=24)
        expect(cards(page).first).to_have_attribute("data-item-id", answer[0].item_id)
        assert shown_ids(page) == [hit.item_id for hit in answer]
        cards(page).first.locator(".open").click()
        parts = dict(page.locator("#why .reason .details").evaluate(PAIRS))
        assert parts["Found by choices and meaning"].startswith(f"place {answer[0].ranked.place}, score ")
        assert parts["Ranker"].endswith(" % likely to be chosen")
        assert parts["Stands at"] == "place 1"


PAIRS = "list => [...list.querySelectorAll('dt')].map((name) => [name.innerText, name.nextSibling.innerText])"


def test_the_ranker_can_be_switched_off_and_on_and_all_else_stays(
    page: Page, query: str, ranked_run: Path, tmp_path: Path
) -> None:
    """Where validation prefers it and where it does not; what is shown is what the address says."""
    for run, is_usual in ((preferring_the_ranker(ranked_run, tmp_path / "run"), True), (ranked_run, False)):
        shop = Engine.open(run)
        assert shop.info()["search_is_ranked"] == is_usual
        user = shop._catalogue.users[0]
        asked = {"k": 24, "user": user, "filters": Filters(max_price=200)}
        found, ranked = (shop.search(query, rank=rank, **asked) for rank in (False, True))
        assert [hit.item_id for hit in found] != [hit.item_id for hit in ranked]
        with visited(page, shop) as at:
            page.goto(f"{at}/?q={quote(query)}&user={user}&max_price=200")
            switch = page.get_by_role("switch", name="Ranker")
            expect(switch).to_be_checked(checked=is_usual)
            assert shown_ids(page) == [hit.item_id for hit in (ranked if is_usual else found)]
            for is_on in (not is_usual, is_usual):
                switch.set_checked(is_on)
                answer = ranked if is_on else found
                expect(cards(page).first).to_have_attribute("data-item-id", answer[0].item_id)
                assert shown_ids(page) == [hit.item_id for hit in answer]
                said = f"&rank={str(is_on).lower()}" if is_on != is_usual else ""
                expect(page).to_have_url(re.compile(rf"user={user}&{said[1:] + '&' if said else ''}max_price=200$"))
                told = expect(page.get_by_role("status"))
                told.to_contain_text("ranker’s order") if is_on else told.not_to_contain_text("ranker")
            page.goto(f"{at}/?q={quote(query)}&user={user}&max_price=200&rank=true")
            cards(page).first.locator(".open").click()
            expect(page.locator("#why .reason .details")).to_contain_text(f"likely to be chosen by {user}")
            page.goto(f"{at}/?q={quote(query)}&rank=false")
            cards(page).first.locator(".open").click()
            expect(page.locator("#why .reason .bars")).to_be_visible()
            expect(page.locator("#why .reason .details")).to_have_count(0)


def test_the_switch_is_there_only_where_a_ranker_can_order(
    page: Page, query: str, ranked_run: Path, complaints: list[str]
) -> None:
    switch = page.get_by_role("switch", name="Ranker")
    page.goto(f"/?q={quote(query)}")
    expect(page.locator("#foot-about")).to_contain_text("items")
    expect(switch).to_be_hidden()
    with visited(page, Engine.open(ranked_run)) as at:
        for address, is_there in (
            (f"/?q={quote(query)}", True),
            (f"/?q={quote(query)}&channel=dense", True),
            (f"/?q={quote(query)}&channel=bm25&rank=true", False),
            ("/?category=Home", False),
            ("/", False),
        ):
            page.goto(f"{at}{address}")
            expect(page.locator("#foot-about")).to_contain_text("items")
            expect(page.get_by_role("status")).to_contain_text("items")
            expect(switch).to_be_visible(visible=is_there)
        page.set_viewport_size({"width": 360, "height": 740})
        page.goto(f"{at}/?q={quote(query)}")
        expect(switch).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_similar_starts_from_an_item_and_back_returns(page: Page, engine: Engine, query: str) -> None:
    page.goto(f"/?q={quote(query)}")
    first = shown_ids(page)
    cards(page).nth(1).get_by_role("button", name="Similar to").click()
    expect(page.get_by_role("heading", name="Similar to")).to_be_visible()
    assert shown_ids(page) == [hit.item_id for hit in engine.similar(first[1], k=24)]
    page.go_back()
    expect(page.get_by_role("heading", name=f"“{query}”")).to_be_visible()
    assert shown_ids(page) == first


def test_every_view_can_be_reached_from_its_address(page: Page, engine: Engine, query: str) -> None:
    target = engine.search(query, k=24)[0].item_id
    page.goto(f"/?q={quote(query)}&sort=-price&item={quote(target, safe='')}")
    expect(page.get_by_role("dialog", name="Why this result")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    prices = [engine.item(item_id)["price"] for item_id in shown_ids(page)]
    assert prices == sorted(prices, reverse=True)
    assert sorted(shown_ids(page)) == sorted(hit.item_id for hit in engine.search(query, k=24))


def test_the_keyboard_alone_is_enough(page: Page, engine: Engine, query: str) -> None:
    page.goto("/")
    expect(cards(page).first).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type(query)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"“{query}”")).to_be_visible()
    found = shown_ids(page)

    def focused() -> str:
        return page.evaluate("document.activeElement.closest('.card')?.dataset.itemId ?? document.activeElement.id")

    columns = page.evaluate(
        "getComputedStyle(document.getElementById('results')).gridTemplateColumns.split(' ').length"
    )
    assert columns >= 3
    expected = [("ArrowDown", 0), ("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns), ("End", 23)]
    for key, index in [*expected, ("Home", 0)]:
        page.keyboard.press(key)
        assert focused() == found[index], key
    outline = page.evaluate("getComputedStyle(document.activeElement, '::after').outlineStyle")
    assert outline == "solid"  # the focus can be seen
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog", name="Why this result")
    expect(panel).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    assert focused() == found[1]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Similar"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert focused() == "q"


FOCUSED = """() => {
    const node = document.activeElement;
    if (node.closest('.card')) return node.className;
    return node.id || node.name || node.className || node.textContent;
}"""
FOCUS_IS_SEEN = """() => {
    const node = document.activeElement;
    const outlined = (of, part) => {
        const style = getComputedStyle(of, part);
        return style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2;
    };
    if (node.id === "q") return getComputedStyle(node.closest("form")).boxShadow !== "none";
    return outlined(node) || outlined(node, "::after") || (node.type === "radio" && outlined(node.closest("label")));
}"""


def test_the_tab_key_reaches_everything_in_the_order_it_is_read(page: Page, query: str) -> None:
    page.goto(f"/?q={quote(query)}&min_price=1")
    expect(cards(page)).to_have_count(24)
    expect(page.get_by_role("radio", name="Everything")).to_be_attached()
    page.locator("body").focus()
    reached = []
    while not reached or reached[-1] != "API":
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
        assert page.evaluate(FOCUS_IS_SEEN), f"the focus on {reached[-1]} cannot be seen"
        assert len(reached) < 40, reached
    top = ["skip", "wordmark", "q", "photo-button", "icon-button submit"]
    filters = ["category", "cell", "min-price", "max-price", "channel", "clear-filters"]
    assert [name for name in reached if name != "all-categories"] == [
        *top,
        *filters,
        "sort",
        "chip",
        "open",
        "similar",
        "more",
        "Semantic IDs",
        "API",
    ]


def test_the_skip_link_leads_past_the_filters(page: Page, query: str) -> None:
    page.goto(f"/?q={quote(query)}")
    expect(cards(page)).to_have_count(24)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the results")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "open"


@pytest.mark.parametrize(
    ("width", "opener", "panel"),
    [
        (1280, "Why this result", "Why this result"),
        (360, "Why this result", "Why this result"),
        (360, "Filters", "Filters"),
    ],
)
def test_a_panel_keeps_the_focus_and_escape_gives_it_back(
    page: Page, query: str, width: int, opener: str, panel: str
) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(f"/?q={quote(query)}")
    expect(cards(page)).to_have_count(24)
    button = page.get_by_role("button", name=opener).first
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=panel)
    expect(dialog).to_be_visible()
    expect(dialog.locator("[aria-busy=true]")).to_have_count(0)
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        inside = page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
        assert inside, page.evaluate(FOCUSED)
        reached.add(page.evaluate(FOCUSED))
    assert {"Find similar items", "primary"} & reached or "filter-done" in reached
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()


SMALL_TARGETS = """() => {
    const dialog = document.querySelector("dialog[open]");
    const tapped = "a, button, select, input, .option, .segments label, .switch";
    const targets = [...(dialog ?? document).querySelectorAll(tapped)];
    return targets.filter((node) => node.checkVisibility({ opacityProperty: true })).filter((node) => {
        const box = node.getBoundingClientRect();
        return !node.matches(".skip, p a") && (box.width < 40 || box.height < 40);
    }).map((node) => `${node.id || node.className || node.textContent} in ${node.parentElement.className}`);
}"""


@pytest.fixture
def phone(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(
        base_url=address,
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    yield page
    context.close()


def test_on_a_phone_nothing_to_tap_is_small_and_nothing_scrolls_sideways(
    phone: Page, engine: Engine, query: str
) -> None:
    def check(what: str) -> None:
        assert phone.evaluate(SMALL_TARGETS) == [], what
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360, what

    photo = io.BytesIO()
    Image.new("RGB", (90, 90), (200, 30, 30)).save(photo, "PNG")
    for view in ("/", f"/?q={quote(query)}&min_price=1&max_price=900", "/?q=🦆", f"/?q={quote('x' * 300)}"):
        phone.goto(view)
        expect(cards(phone).first).to_be_visible()
        expect(phone.locator("#foot-about")).to_contain_text("items")  # the last that is filled in
        check(view)
    phone.get_by_role("button", name="Filters").tap()
    expect(phone.get_by_role("dialog", name="Filters")).to_be_visible()
    check("filters")
    phone.get_by_role("button", name="Show the results").tap()
    cards(phone).first.get_by_role("button", name="Why this result").tap()
    expect(phone.get_by_role("dialog").locator(".bars")).to_be_visible()
    check("why")
    path = engine.code_path("bare").codes
    phone.goto(f"/?codes={path[0]}.{path[1]}")
    expect(branches(phone).first).to_be_visible()
    check("tree")
    phone.goto("/?item=bare")
    expect(phone.locator("#why .code-links a").first).to_be_visible()
    check("links to the tree")
    phone.goto("/")
    with phone.expect_file_chooser() as chooser:
        phone.get_by_role("button", name="Search by photo").tap()
    chooser.value.set_files([{"name": "red.png", "mimeType": "image/png", "buffer": photo.getvalue()}])
    expect(phone.get_by_role("button", name="Remove the photo")).to_be_visible()
    check("photo")
    phone.goto("/?q=qqqzzzxxx&channel=bm25&max_price=0.01")
    expect(phone.get_by_role("heading", name="Nothing here")).to_be_visible()
    check("nothing")
    phone.goto("/docs")
    expect(phone.locator("section#metrics")).to_be_visible()
    check("docs")


@pytest.mark.parametrize("width", [360, 390, 768])
def test_a_narrow_window_scrolls_down_only(page: Page, engine: Engine, query: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    category = max(engine.facets().categories, key=engine.facets().categories.__getitem__)
    for view in ("/", f"/?q={quote(query)}&category={quote(category)}&min_price=1", f"/?q={quote('x' * 300)}"):
        page.goto(view)
        expect(cards(page).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    page.goto(f"/?q={quote(query)}")
    page.get_by_role("button", name="Filters").click()
    sheet = page.get_by_role("dialog", name="Filters")
    expect(sheet).to_be_visible()
    sheet.get_by_role("radio", name=category).check()
    sheet.get_by_role("button", name="Show the results").click()
    expect(sheet).to_be_hidden()
    expect(page.get_by_role("button", name="Filters, 1 active")).to_be_visible()
    cards(page).first.get_by_role("button", name="Why this result").click()
    panel = page.get_by_role("dialog", name="Why this result")
    expect(panel.locator(".bars")).to_be_visible()
    box = panel.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_a_failure_is_told_and_can_be_retried(page: Page, query: str, complaints: list[str]) -> None:
    def fail(route: Route) -> None:
        route.fulfill(
            status=500,
            content_type="application/problem+json",
            headers={"x-request-id": "abc-123"},
            body=f'{{"detail": "{SENTENCE}"}}',
        )

    page.route("**/api/search?*", fail)
    page.goto(f"/?q={quote(query)}")
    expect(page.get_by_role("alert")).to_contain_text(SENTENCE)
    expect(page.get_by_role("alert")).to_contain_text("Request abc-123")
    expect(cards(page)).to_have_count(0)
    page.unroute("**/api/search?*")
    expect(page.get_by_role("combobox", name="Sort")).to_be_hidden()
    page.get_by_role("button", name="Try again").click()
    expect(cards(page)).to_have_count(24)
    expect(page.get_by_role("combobox", name="Sort")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert all("500" in complaint for complaint in complaints)  # the browser's own line about the status
    complaints.clear()


def test_a_lost_connection_is_told(page: Page, query: str, complaints: list[str]) -> None:
    page.goto("/")
    expect(cards(page).first).to_be_visible()
    page.route("**/api/search?*", lambda route: route.abort())
    page.get_by_role("searchbox").fill(query)
    page.get_by_role("searchbox").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    complaints.clear()


def test_skeletons_while_waiting_and_patience_while_the_engine_loads(
    page: Page, query: str, complaints: list[str]
) -> None:
    waiting: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if waiting:
            route.continue_()
        else:
            waiting.append(route)

    page.route("**/api/search?*", hold_the_first)
    page.goto(f"/?q={quote(query)}")
    expect(page.locator(".skeleton").first).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Searching…")
    body = '{"detail": "The engine is still loading; try again in a moment."}'
    waiting[0].fulfill(status=503, content_type="application/problem+json", body=body)
    expect(page.get_by_role("status")).to_contain_text("still loading")
    expect(cards(page)).to_have_count(24)
    complaints.clear()


def test_no_results_offers_a_way_on(page: Page) -> None:
    page.goto("/?q=qqqzzzxxx&channel=bm25")
    expect(page.get_by_role("heading", name="Nothing here")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("No results")
    page.get_by_role("button", name="Find by meaning instead").click()
    expect(cards(page).first).to_be_visible()


def test_examples_that_come_late_are_still_offered_where_there_are_no_results(page: Page, query: str) -> None:
    held: list[Route] = []
    page.route("**/api/info", lambda route: held.append(route))
    page.goto("/?q=qqqzzzxxx&channel=bm25")
    expect(page.get_by_role("heading", name="Nothing here")).to_be_visible()
    examples = page.get_by_role("list", name="Example queries")
    expect(examples).to_have_count(0)
    held[0].continue_()
    examples.get_by_role("button", name=query, exact=True).click()
    expect(page.get_by_role("heading", name=f"“{query}”")).to_be_visible()


def test_where_nothing_in_the_words_is_known_the_page_says_what_it_shows(
    page: Page, engine: Engine, query: str
) -> None:
    page.goto("/")
    search(page, "🦆🦆")
    note = page.locator("#answer-note")
    expect(note).to_have_text("Nothing in '🦆🦆' is known here, so these are the most popular items; try other words.")
    expect(page.get_by_role("status")).to_contain_text("The 24 most clicked of")
    assert shown_ids(page) == [hit.item_id for hit in engine.search(channel="popularity", k=24)]
    cards(page).first.get_by_role("button", name="Why this result").click()
    expect(page.get_by_role("dialog")).to_contain_text("clicked often; what was asked plays no part")
    page.keyboard.press("Escape")
    search(page, query)
    expect(note).to_be_hidden()
    page.goto("/?q=🦆🦆&max_price=0.01")
    expect(page.get_by_role("heading", name="Nothing here")).to_be_visible()
    expect(note).to_be_hidden()


def test_a_search_right_after_a_panel_was_closed_is_not_undone(page: Page, query: str) -> None:
    """A browser goes back a little later than it is told to: what is asked in between comes after that."""
    page.goto("/?q=🦆🦆")
    cards(page).first.get_by_role("button", name="Why this result").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.evaluate(
        """words => {
            const panel = document.getElementById("why");
            panel.addEventListener("close", () => {
                document.getElementById("q").value = words;
                document.getElementById("search").requestSubmit();
            }, { once: true });
            panel.close();
        }""",
        query,
    )
    expect(page.get_by_role("heading", name=f"“{query}”")).to_be_visible()
    page.wait_for_timeout(300)
    expect(page.get_by_role("heading", name=f"“{query}”")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="“🦆🦆”")).to_be_visible()


def test_prices_in_chips_are_as_they_were_typed(page: Page, query: str) -> None:
    page.goto(f"/?q={quote(query)}&min_price=1&max_price=2000.5")
    chips = page.get_by_role("list", name="Active filters").get_by_role("button")
    expect(chips).to_have_text(["From 1×", "Up to 2,000.50×"])


def test_a_hostile_title_stays_text(page: Page) -> None:
    for view in (f"/?category={quote(TRAP)}", "/?similar=trap%2F1", "/?item=trap%2F1", f"/?q={quote(TRAP)}"):
        page.goto(view)
        expect(cards(page).first).to_be_visible()
        expect(page.get_by_text(TRAP).first).to_be_attached()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.trapped") is None
    assert page.locator("img[src=x]").count() == 0


def test_an_item_without_photo_gets_a_designed_tile(page: Page) -> None:
    page.goto("/?category=Bare+things")
    expect(cards(page)).to_have_count(1)
    expect(cards(page).first.locator(".no-photo")).to_contain_text("No photo")


def test_a_photo_that_does_not_load_gets_the_same_tile(page: Page, query: str, complaints: list[str]) -> None:
    page.route("**/api/items/*/photo*", lambda route: route.fulfill(status=404))
    page.goto(f"/?q={quote(query)}")
    expect(cards(page).first.locator(".no-photo")).to_be_visible()
    page.wait_for_load_state("networkidle")
    complaints.clear()  # the browser's own lines about the missing photos


def test_dark_and_light_differ_and_both_can_be_read(page: Page, query: str) -> None:
    def luminance(colour: str) -> float:
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    page.goto(f"/?q={quote(query)}")
    expect(cards(page).first).to_be_visible()
    papers = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        papers.append(paper)
        for selector in ("#heading", ".status", ".brand", ".title", ".score", ".actions .open", ".option-count"):
            ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color"))
            contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
            assert contrast >= 4.5, f"{selector} in {scheme}"
    assert papers[0] > 0.8 and papers[1] < 0.1


def test_the_api_page_lists_every_operation(page: Page) -> None:
    page.goto("/docs")
    for name in ("search", "search_by_photo", "why", "similar", "recommend", "add_items", "facets", "ready"):
        expect(page.locator(f"section#{name}")).to_be_visible()
