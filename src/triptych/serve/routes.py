"""The JSON API: one router per noun. Handlers translate; the engine answers, in a worker thread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from importlib.metadata import version as package_version
from typing import Annotated, Any, Protocol, TypeVar

import anyio
from fastapi import APIRouter, Depends, Form, Query, Request, Response, UploadFile
from starlette.exceptions import HTTPException
from starlette.status import HTTP_201_CREATED, HTTP_304_NOT_MODIFIED, HTTP_404_NOT_FOUND

from triptych.engine import Engine, PrefixError
from triptych.foundation.errors import EngineError
from triptych.serve import present, schemas
from triptych.serve.body import ItemsRoute, PhotoRoute
from triptych.serve.config import ServeConfig
from triptych.serve.errors import Problem
from triptych.serve.metrics import CONTENT_TYPE
from triptych.serve.runtime import Runtime
from triptych.serve.uploads import check_photo

Answer = TypeVar("Answer")

NUM_EXAMPLE_QUERIES = 8
PHOTO_MAX_AGE_S = 86_400


class Ask(Protocol):
    """Runs engine work for one request, off the event loop."""

    async def __call__(self, work: Callable[[Engine], Answer], *, query: str | None = None) -> Answer:
        """Run `work` with the engine and give its answer.

        Args:
            work: what to do.
            query: the words that were searched for, for the log where it is to hold them.
        """
        ...


def get_runtime(request: Request) -> Runtime:
    """The runtime of the service that got the request."""
    runtime = request.app.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime


def get_ask(request: Request, runtime: Annotated[Runtime, Depends(get_runtime)]) -> Ask:
    """The way to the engine for one request."""

    async def ask(work: Callable[[Engine], Answer], *, query: str | None = None) -> Answer:
        request.state.query = query
        return await runtime.call(work, request=request)

    return ask


def get_config(request: Request) -> ServeConfig:
    """The limits of the service that got the request."""
    config = request.app.state.config
    assert isinstance(config, ServeConfig)
    return config


Asking = Annotated[Ask, Depends(get_ask)]
Service = Annotated[Runtime, Depends(get_runtime)]
Limits = Annotated[ServeConfig, Depends(get_config)]

REFUSALS: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem, "description": "The request cannot be answered; `detail` says why."},
    503: {"model": Problem, "description": "The engine is still loading."},
}
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such item."}}
TOO_LARGE: dict[int | str, dict[str, Any]] = {413: {"model": Problem, "description": "The upload is too large."}}

searches = APIRouter(
    prefix="/api",
    tags=["search"],
    route_class=PhotoRoute,
    responses={**REFUSALS},
)
items = APIRouter(
    prefix="/api/items",
    tags=["items"],
    route_class=ItemsRoute,
    responses={**REFUSALS},
)
catalogue = APIRouter(prefix="/api", tags=["catalogue"], responses={**REFUSALS})
states = APIRouter(tags=["state"])


@searches.get("/search", summary="Search by words, or browse")
async def search(parameters: Annotated[schemas.SearchParameters, Query()], ask: Asking) -> schemas.SearchAnswer:
    """Search the catalogue; with ``channel=popularity`` and no query, browse it."""
    return await ask(lambda engine: _search(engine, parameters, photo=None), query=parameters.q)


@searches.post("/search", summary="Search by photo, words, or both", responses={**TOO_LARGE})
async def search_by_photo(
    form: Annotated[schemas.PhotoSearchForm, Form(media_type="multipart/form-data")],
    ask: Asking,
    limits: Limits,
) -> schemas.SearchAnswer:
    """Search with a photo, with or without words."""
    photo = await _read(form.photo, limits=limits)
    return await ask(lambda engine: _search(engine, form, photo=photo), query=form.q)


@searches.get("/why", summary="Explain one item for a query", responses={**UNKNOWN})
async def why(parameters: Annotated[schemas.WhyParameters, Query()], ask: Asking) -> schemas.Why:
    """Say how much an item's title and photo add to its score for a query."""
    return await ask(lambda engine: _why(engine, parameters, photo=None), query=parameters.q)


@searches.post("/why", summary="Explain one item for a photo", responses={**UNKNOWN, **TOO_LARGE})
async def why_by_photo(
    form: Annotated[schemas.PhotoWhyForm, Form(media_type="multipart/form-data")], ask: Asking, limits: Limits
) -> schemas.Why:
    """Say how much an item's title and photo add to its score for a photo, with or without words."""
    photo = await _read(form.photo, limits=limits)
    return await ask(lambda engine: _why(engine, form, photo=photo), query=form.q)


@searches.get("/similar/{item_id:path}", summary="Items like one item", responses={**UNKNOWN})
async def similar(
    item_id: str, parameters: Annotated[schemas.FilterParameters, Query()], ask: Asking
) -> schemas.SearchAnswer:
    """Find the items nearest to one item, itself left out."""

    def work(engine: Engine) -> schemas.SearchAnswer:
        _known(engine, item_id)
        found = engine.similar(item_id, k=parameters.k, filters=parameters.filters)
        return present.answer(engine, found)

    return await ask(work)


@searches.get(
    "/codes",
    summary="The tree of semantic IDs, by prefix",
    responses={404: {"model": Problem, "description": "No semantic ID begins so."}},
)
async def code_tree(parameters: Annotated[schemas.CodeTreeParameters, Query()], ask: Asking) -> schemas.CodeTree:
    """Give the codes that follow a prefix, each with its number of items and a few that stand for them.

    Behind a whole ID: the items that share it.
    """

    def work(engine: Engine) -> schemas.CodeTree:
        try:
            found = engine.code_tree(parameters.codes, k=parameters.k, limit=parameters.limit, offset=parameters.offset)
        except PrefixError as error:  # as an unknown item: it is what the address names
            raise HTTPException(HTTP_404_NOT_FOUND, str(error)) from None
        return present.code_tree(engine, found)

    return await ask(work)


@searches.get("/codes/{item_id:path}", summary="The semantic ID of one item", responses={**UNKNOWN})
async def codes(item_id: str, parameters: Annotated[schemas.CodesParameters, Query()], ask: Asking) -> schemas.CodePath:
    """Give an item's codes, and the items that share all of them, all but the last, and so on down to the first."""

    def work(engine: Engine) -> schemas.CodePath:
        _known(engine, item_id)
        return present.code_path(engine, engine.code_path(item_id, k=parameters.k, of=parameters.of))

    return await ask(work)


@searches.get("/recommend/{user:path}", summary="Items for one user")
async def recommend(
    user: str, parameters: Annotated[schemas.RecommendParameters, Query()], ask: Asking
) -> schemas.RecommendAnswer:
    """Recommend items to a user from their history; an unknown user gets what is popular, and ``personal`` is false."""
    return await ask(lambda engine: _recommend(engine, parameters, user=user, history=None))


@searches.get("/recommend", summary="Items for what somebody chose before")
async def recommend_by_history(
    parameters: Annotated[schemas.HistoryParameters, Query()], ask: Asking
) -> schemas.RecommendAnswer:
    """Recommend items by a history that is sent, which is left out of the answer."""
    return await ask(lambda engine: _recommend(engine, parameters, user=None, history=parameters.history))


@items.post("", summary="Add items", status_code=HTTP_201_CREATED, responses={**TOO_LARGE})
async def add_items(new: schemas.NewItems, ask: Asking, service: Service, limits: Limits) -> schemas.ChangedItems:
    """Add items to the running service, all or none; they are found at once.

    Without a journal they are gone when it stops.
    """
    item_ids = await ask(lambda engine: engine.add_items(_rows(new, limits=limits)))
    return schemas.ChangedItems(item_ids=item_ids, num_items=service.engine.num_items)


@items.put("", summary="Replace items", responses={**TOO_LARGE})
async def replace_items(new: schemas.NewItems, ask: Asking, service: Service, limits: Limits) -> schemas.ChangedItems:
    """Put items in the place of those of the same ids, all or none; one that is new is added.

    An item is replaced as a whole: what is not sent, its photo included, it no longer has.
    """
    item_ids = await ask(lambda engine: engine.replace_items(_rows(new, limits=limits)))
    return schemas.ChangedItems(item_ids=item_ids, num_items=service.engine.num_items)


@items.post("/remove", summary="Remove items")
async def remove_items(gone: schemas.ItemIds, ask: Asking, service: Service) -> schemas.ChangedItems:
    """Remove items from the running service, all or none; no answer has them any more."""
    item_ids = await ask(lambda engine: engine.remove_items(gone.item_ids))
    return schemas.ChangedItems(item_ids=item_ids, num_items=service.engine.num_items)


@items.delete("/{item_id:path}", summary="Remove one item", responses={**UNKNOWN})
async def remove_item(item_id: str, ask: Asking, service: Service) -> schemas.ChangedItems:
    """Remove an item from the running service; no answer has it any more. Many together are removed faster."""

    def work(engine: Engine) -> list[str]:
        _known(engine, item_id)
        return engine.remove_items([item_id])

    return schemas.ChangedItems(item_ids=await ask(work), num_items=service.engine.num_items)


@items.get(
    "/{item_id:path}/photo",
    summary="The photo of an item",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "Not changed."}, **UNKNOWN},
)
def item_photo(
    item_id: str,
    request: Request,
    service: Service,
    v: str | None = None,
) -> Response:
    """Give an item's photo as JPEG; an address with the ``v`` of an answer may be kept for a day.

    One that an earlier run was served with gives the photo of today.
    """
    # A plain function: a page asks for dozens of photos, and these short reads should not queue behind searches.
    engine = service.engine
    _known(engine, item_id)
    photo = engine.photo_jpeg(item_id)
    if photo is None:
        raise HTTPException(HTTP_404_NOT_FOUND, f"Item '{item_id}' has no photo.")
    etag = f'"{hashlib.blake2b(photo, digest_size=12).hexdigest()}"'
    headers = {
        "etag": etag,
        "cache-control": "no-cache" if v is None else f"public, max-age={PHOTO_MAX_AGE_S}",
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(photo, media_type="image/jpeg", headers=headers)


@items.get("/{item_id:path}", summary="One item", responses={**UNKNOWN})
async def item(item_id: str, ask: Asking) -> schemas.Item:
    """Give what is shown of an item."""
    return await ask(lambda engine: present.item(_known(engine, item_id), version=engine.version))


@catalogue.get("/facets", summary="What can be filtered by")
async def facets(ask: Asking) -> schemas.Facets:
    """Give the categories and delivery cells with their counts, and the range of prices."""
    return await ask(lambda engine: present.facets(engine.facets()))


@catalogue.get("/info", summary="What is being served")
async def info(ask: Asking, service: Service, limits: Limits) -> schemas.Info:
    """Give the catalogue's size, the artefacts behind the answers, the limits of uploads, and example queries."""
    return await ask(
        lambda engine: schemas.Info(
            version=package_version("triptych"),
            serving=_serving(service),
            num_items=engine.num_items,
            example_queries=engine.example_queries(NUM_EXAMPLE_QUERIES),
            limits=schemas.Limits(
                photo_bytes=limits.max_photo_bytes,
                photo_pixels=limits.max_photo_pixels,
                items_bytes=limits.max_items_bytes,
            ),
            details=engine.info(),
        )
    )


@states.get("/health", summary="Is the process alive?")
async def health() -> schemas.Status:
    """Answer as soon as the process listens."""
    return schemas.Status(status="alive")


@states.get("/ready", summary="Can it answer?", responses={503: REFUSALS[503]})
async def ready(service: Service) -> schemas.Ready:
    """Answer 200 and say which run it is once the engine has answered a search; 503 with the reason before."""
    return schemas.Ready(status="ready", serving=_serving(service))


@states.get(
    "/metrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
def metrics(request: Request) -> Response:
    """Give the counters in Prometheus' text format: requests by route and status, refused photos, what is served."""
    return Response(request.app.state.metrics.to_text(), media_type=CONTENT_TYPE)


def _search(engine: Engine, parameters: schemas.SearchParameters, *, photo: bytes | None) -> schemas.SearchAnswer:
    found = engine.search(
        parameters.q,
        photo=photo,
        k=parameters.k,
        user=parameters.user,
        filters=parameters.filters,
        channel=parameters.channel,
        rank=parameters.rank,
        explain=parameters.explain,
    )
    return present.answer(engine, found)


def _recommend(
    engine: Engine, parameters: schemas.RecommendParameters, *, user: str | None, history: list[str] | None
) -> schemas.RecommendAnswer:
    found = engine.recommend(
        user=user, history=history, k=parameters.k, filters=parameters.filters, channel=parameters.channel
    )
    return present.recommendation(engine, found)


def _why(engine: Engine, parameters: schemas.WhyParameters, *, photo: bytes | None) -> schemas.Why:
    _known(engine, parameters.item_id)
    found = engine.why(
        parameters.item_id,
        query=parameters.q,
        photo=photo,
        user=parameters.user,
        channel=parameters.channel,
        rank=parameters.rank,
    )
    return present.why(found)


def _serving(service: Runtime) -> schemas.Serving:
    serving = service.serving
    return schemas.Serving(run=serving.engine.version, generation=serving.generation)


def _rows(new: schemas.NewItems, *, limits: ServeConfig) -> list[dict[str, Any]]:
    """The engine's rows of new items, whose photos are small enough to be decoded."""
    for item in new.items:
        if item.photo is not None:
            check_photo(item.photo, config=limits, what=f"The photo of '{item.item_id}'")
    return [item.to_row() for item in new.items]


def _known(engine: Engine, item_id: str) -> dict[str, Any]:
    """What is shown of an item; an unknown one is 404 here, because it is what the address names."""
    if not item_id:
        raise HTTPException(HTTP_404_NOT_FOUND, "The address names no item; its id stands at the end.")
    try:
        return engine.item(item_id)
    except EngineError as error:
        raise HTTPException(HTTP_404_NOT_FOUND, str(error)) from None


async def _read(upload: UploadFile | None, *, limits: ServeConfig) -> bytes | None:
    """The bytes of an upload; none where there is none or it is empty (an untouched file field of a form)."""
    if upload is None:
        return None
    photo = await upload.read(limits.max_photo_bytes + 1)
    if not photo:
        return None
    await anyio.to_thread.run_sync(partial(check_photo, photo, config=limits))
    return photo
