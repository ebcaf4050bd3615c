"""What a refusal can say of the right form of a request, as the service's OpenAPI document has it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI

from triptych.foundation.errors import did_you_mean

CALLED_OTHERWISE = {
    **dict.fromkeys(("query", "text", "term"), "q"),
    **dict.fromkeys(("limit", "size", "top_k", "n"), "k"),
    **dict.fromkeys(("id", "item"), "item_id"),
    "user_id": "user",
}
"""What other services call our parameters."""


class Operation(NamedTuple):
    """One thing that the service answers."""

    method: str
    path: str
    """With what stands in it in braces."""
    in_path: Sequence[str]
    """What stands in it."""
    names: Sequence[str]
    """Parameters behind the question mark, or fields of the body."""
    example: str
    """A body that it takes, as JSON; empty: it takes none, or a form."""

    def fits(self, path: str) -> bool:
        """Whether an address is one of this operation's."""
        return re.fullmatch(re.sub(r"\\{\w+\\}", ".+", re.escape(self.path)), path) is not None

    def is_below(self, path: str) -> bool:
        """Whether the operation's address is another's with something in braces behind it."""
        return self.path.startswith(f"{path}/{{")


def operations(app: FastAPI) -> list[Operation]:
    """Return what a service answers, in the order of its documentation."""
    document = app.openapi()
    return [
        _operation(method.upper(), path, tree, schemas=document["components"]["schemas"])
        for path, methods in document["paths"].items()
        for method, tree in methods.items()
    ]


def _operation(method: str, path: str, tree: dict[str, Any], *, schemas: dict[str, Any]) -> Operation:
    parameters = tree.get("parameters", [])
    names = [one["name"] for one in parameters if one["in"] == "query"]
    example = ""
    for media in tree.get("requestBody", {}).get("content", {}).values():
        body = schemas[media["schema"]["$ref"].rpartition("/")[2]]
        names += body["properties"]
        example = "".join(json.dumps(one) for one in body.get("examples", [])[:1])
    return Operation(method, path, [one["name"] for one in parameters if one["in"] == "path"], names, example)


def unknown_name(name: str, *, here: Operation | None, others: Sequence[Operation]) -> str:
    """Say that a request has no such parameter, and what was meant, or where it stands.

    Args:
        name: as it was sent.
        here: what was asked; None: it is in no documentation.
        others: all that can be asked.
    """
    told = f"'{name}' is not a parameter of this request"
    if here is None:
        return f"{told}."
    ours = CALLED_OTHERWISE.get(name, name)
    for one in (here, *(one for one in others if one.method == here.method and one.is_below(here.path))):
        if ours in one.in_path:
            return f"{told}; it stands in the address: {one.path}."
    if ours in here.names:
        return f"{told}. Did you mean '{ours}'?"
    known = f" Known are: {', '.join(here.names)}." if here.names else ""
    return f"{told}.{did_you_mean(name, here.names) or known}"


def missing(name: str, *, here: Operation | None, others: Sequence[Operation]) -> str:
    """Say that a request lacks a parameter or its body, and what a body looks like, or how to ask without.

    Args:
        name: of the parameter; empty: the body.
        here: as of `unknown_name`.
        others: as there.
    """
    told = f"{repr(name) if name else 'The body'} is missing; it is required here."
    if here is None:
        return told
    if here.example:
        return f"{told} {wanted_body(here)}"
    without = [one.path for one in others if one.method == here.method and one.is_below(here.path)]
    return f"{told} Without it there is {without[0]}." if without else told


def wanted_body(here: Operation) -> str:
    """Show a body that is taken."""
    return f"The body is JSON, such as {here.example}."


def not_allowed(method: str, path: str, *, others: Sequence[Operation]) -> tuple[str, list[str]]:
    """Say that an address does not take a method, which ones it takes, and where the method is taken nearby.

    Returns:
        The sentence, and the methods that the address takes.
    """
    taken = sorted({one.method for one in others if one.fits(path)})
    told = f"{method} is not answered at {path}"
    if taken:
        told += f"; {' and '.join(taken)} {'is' if len(taken) == 1 else 'are'}"
    near = [
        one.path for one in others if one.method == method and (one.is_below(path) or path.startswith(f"{one.path}/"))
    ]
    return f"{told}." + (f" There is {method} {near[0]}." if near else ""), taken


def nothing_there(method: str, path: str, *, others: Sequence[Operation]) -> str:
    """Say that nothing is at an address, and what is at the one that is nearest."""
    told = f"There is nothing at {path}"
    heads = {_head(one.path) for one in others}
    wanted = [
        _head(path),
        *difflib.get_close_matches(_head(path), sorted(heads), n=1, cutoff=0.8),
        _head(f"/api{path}"),
    ]
    near = next((head for head in wanted if head in heads), None)
    found = [one for one in others if _head(one.path) == near]
    best = next((one for one in found if one.method == method), None) or next(iter(found), None)
    if best is None:
        return f"{told}; see /docs for what there is."
    takes = f" with {', '.join(best.names)}" if best.names else ""
    return f"{told}. There is {best.method} {best.path}{takes}; see /docs for all."


def _head(path: str) -> str:
    """Return what an address is about: ``/api/items`` of ``/api/items/i1/photo``."""
    return "/".join(path.split("/")[:3])
