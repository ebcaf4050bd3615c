"""Items added at run time: the values of a catalogue's own columns, by what each column is."""

from __future__ import annotations

import pytest

from triptych.data.schema import Role
from triptych.engine.new_items import PhotoSizes, check_rows
from triptych.foundation.errors import EngineError

FEATURES = {"colour": Role.CATEGORICAL, "about": Role.TEXT, "weight": Role.NUMERIC, "tags": Role.MULTI}


def check(**columns):
    row = {"item_id": "n1", "title": "x", **columns}
    photos = PhotoSizes(px=8, display_px=8)
    return check_rows([row], features=FEATURES, is_known={"i1"}.__contains__, room=1, photos=photos)[0].features


def test_values_are_kept_in_the_type_of_their_column():
    given = {"colour": "red", "about": "long ago", "weight": 3, "tags": ("a", "b", "a")}
    assert check(**given) == {"colour": "red", "about": "long ago", "weight": 3.0, "tags": ["a", "b"]}
    assert isinstance(check(weight=3)["weight"], float)
    assert check(tags="a") == {"tags": ["a"]}
    assert check(colour=None, weight=None) == {"colour": None, "weight": None}
    assert check(colour=" ") == {"colour": None}
    assert check() == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"colour": 3}, r"New item 1 \('n1'\): colour is 3, it must be a text"),
        ({"about": ["a"]}, r"about is \['a'\], it must be a text"),
        ({"weight": "3"}, "weight is '3', it must be a number"),
        ({"weight": True}, "weight is True, it must be a number"),
        ({"weight": float("nan")}, "weight is nan, it must be a number"),
        ({"weight": float("inf")}, "weight is inf, it must be a number"),
        ({"weight": 10**400}, "weight is 1000+, it must be a number"),
        ({"tags": [1]}, r"tags is \[1\], it must be a list of texts"),
        ({"tags": 1}, "tags is 1, it must be a list of texts"),
    ],
)
def test_values_of_another_type_are_refused(columns, message):
    with pytest.raises(EngineError, match=message):
        check(**columns)
