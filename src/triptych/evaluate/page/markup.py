"""The few HTML pieces that every section of the report uses."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping


def text(value: object) -> str:
    """Escape a value for use between tags or inside quotes."""
    return html.escape(str(value))


def section(anchor: str, heading: str, *parts: str, lead: str = "") -> str:
    """One section of the page with its anchor; "" where it has nothing to show."""
    if not any(parts):
        return ""
    intro = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{anchor}"><h2>{text(heading)}</h2>{intro}{"".join(parts)}</section>'


def table(
    head: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    css: str = "",
    row_css: Iterable[str] = (),
    caption: str = "",
) -> str:
    """A table from cells that are already HTML; the first cell of a row is its header.

    Args:
        head: Cells of the head.
        rows: Cells of the body.
        css: Class of the table.
        row_css: Class of each row.
        caption: Words that belong to it; "" for none.
    """
    header = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    classes = iter(row_css)
    body = "".join(
        f'<tr class="{next(classes, "")}"><th scope="row">{cells[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells[1:])
        + "</tr>"
        for cells in map(list, rows)
    )
    words = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="{css}">{words}<thead><tr>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def definitions(pairs: Mapping[str, str], *, css: str = "") -> str:
    """A list of words and what they mean; of class ``names`` those are written as they are."""
    body = "".join(f"<div><dt>{text(name)}</dt><dd>{text(meaning)}</dd></div>" for name, meaning in pairs.items())
    return f'<dl class="{f"definitions {css}".strip()}">{body}</dl>' if body else ""


def command(line: str, *, what: str) -> str:
    """The command that prints what stands above."""
    return f'<p class="command"><span>{text(what)}</span> <code>{text(line)}</code></p>' if line else ""


def chip(label: str, *, css: str, title: str = "") -> str:
    """A short word in a coloured frame."""
    hint = f' title="{text(title)}"' if title else ""
    return f'<span class="chip {css}"{hint}>{text(label)}</span>'


def figure(svg: str, *, caption: str, css: str = "") -> str:
    """A figure with its caption; "" where there is no picture."""
    if not svg:
        return ""
    return (
        f'<figure class="{css}"><div class="scroll" tabindex="0">{svg}</div><figcaption>{caption}</figcaption></figure>'
    )
