"""What each canonical column is called in other people's tables, and what it must hold to be taken for it."""

from __future__ import annotations

import polars as pl

from triptych.data.guess import Field
from triptych.data.parse import parse_flags, parse_numbers, parse_times
from triptych.data.schema import PART, PART_WORDS, PHOTO_ONLY, RATING, EventKind, Part

RATING_NAMES = "rating stars score ratingvalue overall reviewrating userrating"
"""What a rating may be called, as `guess.bare_name` spells it: it is pointed out, never taken for one unasked."""
_FEW_VALUES = 20
"""Different values that a rating or a word for what happened has at most."""
PHOTO_SUFFIXES = ("jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff")
_NESTED = (pl.List, pl.Array, pl.Struct, pl.Binary, pl.Object)

_ITEM = """itemid | item | sku skuid productid product productuid productsku asin parentasin articleid goodsid dishid
    movieid itemcode productcode gtin ean offerid contentid listingid lineitemsku |
    bookid newsid videoid trackid songid gameid recipeid"""
_QUERY = """query | q searchquery querytext querystring rawquery searchterm searchterms searchtext searchstring
    searchphrase searchkeyword searchkeywords keywords keyword term phrase"""


def number_rate(values: pl.Series, *, money: bool = False) -> float:
    """Return the share of values that are numbers; 1 where there are none."""
    return _rate(parse_numbers(values, money=money).is_not_null())


def has_few_values(values: pl.Series) -> bool:
    """Say whether a sample without nulls may be ratings, or words for what happened: some values that come back."""
    return not isinstance(values.dtype, _NESTED) and 1 < values.n_unique() <= _FEW_VALUES


def bare_word(word: str) -> str:
    """Return an event word as `schema.KIND_WORDS` spells it: `Add to cart` is `add_to_cart`."""
    return "_".join(word.lower().replace("-", " ").replace("_", " ").split())


def known_kinds(values: pl.Series, words: dict[str, EventKind]) -> pl.Series:
    """Return the kind that each word means, as text; null where it is not known."""
    distinct = values.drop_nulls().unique()
    known = {word: words[bare_word(word)].value for word in distinct if bare_word(word) in words}
    return values.replace_strict(list(known), list(known.values()), default=None, return_dtype=pl.String)


def known_parts(values: pl.Series) -> pl.Series:
    """Return the part of a split that each word means, as text; null where it is not known."""

    def meaning(word: str) -> Part | None:
        return PART_WORDS.get(word.lower().removesuffix(".0"))

    words = values.cast(pl.String)
    found = {word: part.value for word in words.drop_nulls().unique() if (part := meaning(word)) is not None}
    return words.replace_strict(list(found), list(found.values()), default=None, return_dtype=pl.String)


def _rate(matches: pl.Series) -> float:
    return int(matches.sum()) / len(matches) if len(matches) > 0 else 1.0


def _is_id(values: pl.Series) -> bool:
    if values.dtype.is_float():
        return bool((values % 1 == 0).all())
    return values.dtype == pl.String or values.dtype.is_integer()


def _is_word(values: pl.Series) -> bool:
    return not isinstance(values.dtype, _NESTED) and (values.is_empty() or not _is_photo(values))


def _is_title(values: pl.Series) -> bool:
    return values.dtype == pl.String and (values.is_empty() or (number_rate(values) < 0.5 and not _is_photo(values)))


def _is_query(values: pl.Series) -> bool:
    return values.dtype == pl.String and (values.is_empty() or not _is_photo(values))


def _is_number(values: pl.Series) -> bool:
    return not isinstance(values.dtype, _NESTED) and number_rate(values, money=True) >= 0.5


def _is_time(values: pl.Series) -> bool:
    return _time_rate(values) >= 0.5


def _looks_like_time(values: pl.Series) -> bool:
    """A time whatever its name; digits do not count, since prices and counters pass for epoch times."""
    digits = values.dtype.is_numeric() or (values.dtype == pl.String and bool(values.str.contains(r"^[\d.]+$").any()))
    return not digits and _time_rate(values) >= 0.8


def _time_rate(values: pl.Series) -> float:
    return _rate(parse_times(values).dt.year().is_between(1990, 2100).fill_null(False))


def _is_photo(values: pl.Series) -> bool:
    return _photo_rate(values) >= 0.5


def _photo_rate(values: pl.Series) -> float:
    if isinstance(values.dtype, pl.List) and values.dtype.inner == pl.String:  # several photos per item
        values = values.explode().str.strip_chars().drop_nulls()
        values = values.filter(values != "")
    if values.dtype != pl.String or values.is_empty():
        return float(values.dtype == pl.Binary or (values.is_empty() and not isinstance(values.dtype, _NESTED)))
    return _rate(values.str.to_lowercase().str.contains(rf"\.({'|'.join(PHOTO_SUFFIXES)})(\?.*)?[\"'\]|,;]*$"))


def _is_listed(values: pl.Series) -> bool:
    return isinstance(values.dtype, pl.List | pl.Array) or _is_id(values)


def _is_flag(values: pl.Series) -> bool:
    return not isinstance(values.dtype, _NESTED) and _rate(parse_flags(values).is_not_null()) >= 0.5


def _is_part(values: pl.Series) -> bool:
    return not isinstance(values.dtype, _NESTED) and _rate(known_parts(values).is_not_null()) == 1


def _is_key(values: pl.Series) -> bool:
    """An id whatever its name: different in every row, without spaces, and not a file or a measure."""
    if values.dtype.is_float() or not _is_id(values) or len(values) < 2 or values.n_unique() < len(values):
        return False
    text = values.cast(pl.String)
    return not text.str.contains(r"\s|\d\.\d*$").any() and not _is_photo(text)


def _kind_rate(values: pl.Series, words: dict[str, EventKind]) -> float:
    if isinstance(values.dtype, _NESTED):
        return 0.0
    return _rate(known_kinds(values.cast(pl.String), words).is_not_null())


ITEM_FIELDS = (
    Field(
        name="item_id",
        setting="id",
        meaning="the item's id",
        names=_ITEM.replace("itemid |", "itemid | id |") + "| code key handle",
        fits=_is_id,
        needed=True,
        decisive=True,
        by_content=_is_key,
    ),
    Field(
        name="title",
        setting="title",
        meaning="the title",
        names="""title | name | itemname itemtitle productname producttitle productdisplayname displayname dishname
            articlename goodsname prodname movietitle booktitle heading headline label""",
        fits=_is_title,
        decisive=True,
    ),
    Field(
        name="photo",
        setting="photo",
        meaning="the photo",
        names="""photo | image | photopath photofile imagepath imagefile imgfile imgpath img picture picturefile
            filename file poster thumbnail thumb photourl imageurl imgurl pictureurl imagesrc imagelink imurl mainimage
            primaryimage coverimage baseimage productimage images photos""",
        fits=_is_photo,
        by_content=lambda values: _photo_rate(values) >= 0.8,
    ),
    Field(
        name="category",
        setting="category",
        meaning="the category",
        names="""category | categoryname cat department dept deptname producttype articletype categorypath
            mastercategory subcategory productcategory itemcategory maincategory googleproductcategory producttypename
            categorycode categoryid""",
        fits=_is_word,
    ),
    Field(
        name="brand",
        setting="brand",
        meaning="the brand",
        names="brand | brandname itembrand productbrand manufacturer maker",
        fits=_is_word,
    ),
    Field(
        name="merchant",
        setting="merchant",
        meaning="the merchant",
        names="""merchant | merchantname merchantid sellername seller sellerid shopname shop shopid storename store
            storeid vendor vendorid restaurantname restaurant restaurantid supplier""",
        fits=_is_word,
    ),
    Field(
        name="price",
        setting="price",
        meaning="the price",
        names="""price | variantprice productprice itemprice regularprice saleprice sellingprice unitprice listprice
            priceusd priceeur amount cost""",
        fits=_is_number,
    ),
    Field(
        name="cells",
        setting="cells",
        meaning="the delivery cells",
        names="cells | cell deliverycells deliverycell zones deliveryzones regions",
        fits=_is_listed,
    ),
    Field(
        name="first_seen",
        setting="first_seen",
        meaning="the time of first appearance",
        names="firstseen | firstseenat createdat created addedat added dateadded launchdate listedat",
        fits=_is_time,
    ),
)

JUDGEMENT_FIELDS = (
    Field(
        name="query",
        setting="query",
        meaning="the query",
        names=_QUERY,
        fits=_is_query,
        needed=True,
        decisive=True,
    ),
    Field(
        name="item_id",
        setting="item",
        meaning="the item's id",
        names=_ITEM,
        fits=_is_id,
        needed=True,
        decisive=True,
    ),
    Field(
        name="grade",
        setting="grade",
        meaning="the grade",
        names="grade | relevance rel relevancegrade judgement judgment | score rating label gain",
        fits=_is_number,
        needed=True,
        decisive=True,
    ),
    Field(name=PHOTO_ONLY, setting=PHOTO_ONLY, meaning="the photo-only mark", names="photoonly", fits=_is_flag),
)


def event_fields(words: dict[str, EventKind]) -> tuple[Field, ...]:
    """Return the fields of the events table.

    Args:
        words: the event words that are known, ours and the user's.
    """
    return (
        Field(
            name="item_id",
            setting="item",
            meaning="the item's id",
            names=_ITEM,
            fits=_is_id,
            needed=True,
            decisive=True,
        ),
        Field(
            name="time",
            setting="time",
            meaning="the time",
            names="""time timestamp datetime eventtime eventtimestamp ts |
                date createdat occurredat clickedat clicktime at when unixtime unixreviewtime eventdate tdat day""",
            fits=_is_time,
            needed=True,
            decisive=True,
            by_content=_looks_like_time,
        ),
        Field(
            name="user",
            setting="user",
            meaning="the user",
            names="""user userid uid userpseudoid | customer customerid visitor visitorid fullvisitorid client clientid
                member memberid buyer buyerid shopper shopperid reviewerid accountid anonymousid deviceid""",
            fits=_is_id,
            decisive=True,
        ),
        Field(name="query", setting="query", meaning="the query", names=_QUERY, fits=_is_query, decisive=True),
        Field(
            name="kind",
            setting="kind",
            meaning="what happened",
            names="""kind eventkind | event eventtype eventname action actiontype interaction interactiontype
                behavior behaviour behaviortype type""",
            fits=lambda values: _kind_rate(values, words) >= 0.5,
            decisive=True,
            by_content=lambda values: _kind_rate(values, words) >= 0.9,
        ),
        Field(name=RATING, setting=RATING, meaning="the rating", names="", fits=_is_number),
        Field(
            name="page",
            setting="page",
            meaning="the page",
            names="page | pageid requestid serpid listid searchid",
            fits=_is_id,
        ),
        Field(
            name="position",
            setting="position",
            meaning="the position",
            names="position | pos rank slot itemlistindex",
            fits=_is_number,
        ),
        Field(
            name="cell",
            setting="cell",
            meaning="the delivery cell",
            names="cell | cellid deliverycell zone region",
            fits=_is_id,
        ),
        Field(
            name=PART,
            setting=PART,
            meaning="the part of a split",
            names="part | split xlabel datasplit subset",
            fits=_is_part,
        ),
    )
