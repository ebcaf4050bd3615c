"""Typed, frozen configuration: one tree per run, checked before anything starts.

Each component declares its own ``Config``: a field's type, range, default, unit and meaning stand in the
component's file and nowhere else. Parents nest the configs of their children. A config never acts: it opens no
file and probes no device.

Precedence: recipe function, then config file (TOML, or any saved JSON), then ``--set a.b=value``.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, Self, get_args, get_origin, runtime_checkable

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from triptych.foundation.errors import ConfigError, did_you_mean

Tree = dict[str, Any]
REQUIRED = "required"
"""Stands where a default would, for a field that has none."""


class Config(BaseModel):
    """Base of every configuration: frozen, strict about names, documented field by field."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        hide_input_in_errors=False,
        allow_inf_nan=False,
    )

    def dump(self) -> Tree:
        """Return the tree as plain JSON types, complete.

        pydantic serialises by the *declared* type and would drop the fields that only the chosen kind has, so
        every dump goes through here.
        """
        return self.model_dump(mode="json", serialize_as_any=True)

    def to_json(self) -> str:
        """Return `dump` as indented JSON with a final newline."""
        return json.dumps(self.dump(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Self:
        """Check a tree of plain values.

        Raises:
            ConfigError: one line per mistake, each with its dotted path and the nearest valid name.
        """
        try:
            return cls.model_validate(dict(tree))
        except ValidationError as error:
            lines = [_explain(cls, tree, detail) for detail in _causes(error.errors())]
            raise ConfigError("\n".join(dict.fromkeys(lines))) from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML or JSON file and check it.

        Raises:
            ConfigError: the file is absent, not TOML or JSON, or its settings are wrong.
        """
        return cls.parse(read_tree(path))

    def override(self, *settings: str) -> Self:
        """Return a copy with ``a.b=value`` settings applied.

        Values are read as JSON where they are JSON, else as text. The settings apply to the dumped tree of this
        config, so that what they do not name keeps its value; a new ``kind`` drops the fields of the old one, and is
        applied before the others, wherever it stands.

        Raises:
            ConfigError: a setting has no ``=``, names something unknown, or has a value out of range.
        """
        tree = self.dump()
        for setting in sorted(settings, key=_kinds_first):
            path, separator, text = setting.partition("=")
            if not separator or not path.strip():
                raise ConfigError(f"--set {setting!r}: expected path=value, for example pretrain.loop.steps=500.")
            _assign(tree, path.strip().split("."), _value(text), setting=setting)
        return type(self).parse(tree)

    def merged(self, tree: Mapping[str, Any]) -> Self:
        """Return a copy with the values of a partial tree laid over this config.

        Tables merge key by key, all else replaces; a new ``kind`` drops the fields of the old one.
        """
        return type(self).parse(_merge(self.dump(), tree))


def read_tree(path: str | Path) -> Tree:
    """Read a TOML or JSON file as a plain tree.

    Raises:
        ConfigError: the file is absent, or is not valid TOML or JSON.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        near = did_you_mean(path.name, (p.name for p in folder.iterdir()))
        raise ConfigError(f"Config file {str(path)!r} does not exist.{near}")
    text = path.read_text(encoding="utf-8")
    try:
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        form = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"Config file {str(path)!r} is not valid {form}: {error}.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"Config file {str(path)!r} must hold a table at the top, not a {type(tree).__name__}.")
    return tree


class FieldRow(BaseModel):
    """One line of `describe`: what a user can set, and what it means."""

    path: str
    type: str
    default: str
    limits: str
    meaning: str


def describe(config: Config, *, prefix: str = "") -> Iterator[FieldRow]:
    """Walk every field of a config tree in order, with its default, range and meaning.

    A section that is left out (None) has a row of its own, followed by the fields it would have, whose default is
    "required" where there is none. Where its class is chosen by a kind, the row lists the kinds instead, as does that
    of the kind of a section that is there.
    """
    for name, info in type(config).model_fields.items():
        yield from _describe(info, value=getattr(config, name), path=f"{prefix}{name}")


@runtime_checkable
class Choice(Protocol):
    """What resolves a field whose class is chosen by a kind; see `registry.one_of`."""

    def kinds(self) -> list[str]:
        """List the kinds there are."""

    def section(self, kind: str) -> type[Config]:
        """Return the class of a kind."""


class Elsewhere(NamedTuple):
    """A setting that a config would have with another kind in some place."""

    path: str
    place: str
    """Of the section that has a kind."""
    kind: str


def elsewhere(config: Config, *, match: str) -> Iterator[Elsewhere]:
    """Find settings that are not in a config's tree because another kind, or none, is chosen where they belong.

    Args:
        config: the tree.
        match: what their paths contain; or the name of a kind, whose place is then the path.
    """
    for place, choice, chosen in choices(config):
        for kind in choice.kinds():
            if kind == chosen:
                continue
            if match in kind:
                yield Elsewhere(place, place, kind)
                continue
            try:
                section = choice.section(kind)
            except ImportError:  # an optional library is absent, which hurts its own kind only
                continue
            paths = (f"{place}.{name}" for name in section.model_fields if name != "kind")
            yield from (Elsewhere(path, place, kind) for path in paths if match in path)


def choices(config: Config, *, prefix: str = "") -> Iterator[tuple[str, Choice, str | None]]:
    """Walk the fields whose class is chosen by a kind: path, what chooses, and the kind that is chosen, None: none."""
    for name, info in type(config).model_fields.items():
        yield from _choices_of(info, value=getattr(config, name), path=f"{prefix}{name}")


def _choices_of(info: FieldInfo, *, value: Any, path: str) -> Iterator[tuple[str, Choice, str | None]]:
    choice = _choice(info.metadata)
    if choice is not None:
        yield path, choice, getattr(value, "kind", None)
    if isinstance(value, Config):
        yield from choices(value, prefix=f"{path}.")
    elif choice is None and (section := _section(info)) is not None and _listed(info) is None:
        for name, inner in section.model_fields.items():
            yield from _choices_of(inner, value=inner.get_default(call_default_factory=True), path=f"{path}.{name}")


def _describe(info: FieldInfo, *, value: Any, path: str) -> Iterator[FieldRow]:
    if isinstance(value, Config):
        kinds = _kinds(info)
        for row in describe(value, prefix=f"{path}."):
            chosen = kinds is not None and row.path == f"{path}.kind"
            yield row.model_copy(update={"type": " | ".join(kinds or ())}) if chosen else row
        return
    listed = _listed(info)
    if listed is not None:
        yield from _describe_listed(info, listed, value=value, path=path)
        return
    left_out = value is None or value is PydanticUndefined
    kinds = _kinds(info) if left_out else None
    section = _section(info) if left_out and kinds is None else None
    yield FieldRow(
        path=path,
        type=_type_name(info, kinds=kinds, is_section=section is not None),
        default=REQUIRED if value is PydanticUndefined else json.dumps(_plain(value), ensure_ascii=False),
        limits=_limits(info),
        meaning=" ".join((info.description or "").split()),
    )
    for name, inner in section.model_fields.items() if section is not None else ():
        yield from _describe(inner, value=inner.get_default(call_default_factory=True), path=f"{path}.{name}")


def _describe_listed(info: FieldInfo, listed: _Listed, *, value: Any, path: str) -> Iterator[FieldRow]:
    """Describe a list or a table of sections, and the fields that each has where they are all of one class."""
    of = " | ".join(listed.kinds) if listed.kinds else "sections"
    yield FieldRow(
        path=path,
        type=f"{listed.form} of {of}",
        default=REQUIRED if value is PydanticUndefined else f"{len(value)} of them",
        limits=_limits(info),
        meaning=" ".join((info.description or "").split()),
    )
    for name, inner in listed.section.model_fields.items() if not listed.kinds else ():
        default = inner.get_default(call_default_factory=True)
        yield from _describe(inner, value=default, path=f"{path}.{listed.place}.{name}")


class _Listed(NamedTuple):
    """What a field holds several of."""

    form: str
    place: str
    """Stands for a number or a name in a path."""
    section: type[Config]
    kinds: list[str] | None


def _listed(info: FieldInfo) -> _Listed | None:
    """Say what a field of type tuple[X, ...] or dict[str, X] holds, where X is a section or one of several kinds."""
    origin, args = get_origin(info.annotation), get_args(info.annotation)
    if origin not in (tuple, dict):
        return None
    inner = args[0] if origin is tuple else args[1]
    section, *constraints = get_args(inner) if get_origin(inner) is Annotated else (inner,)
    if not _is_config(section):
        return None
    form, place = ("list", "N") if origin is tuple else ("table", "NAME")
    return _Listed(form, place, section, _kinds_among(constraints))


def _kinds(info: FieldInfo) -> list[str] | None:
    return _kinds_among(info.metadata)


def _kinds_among(constraints: Sequence[Any]) -> list[str] | None:
    choice = _choice(constraints)
    return None if choice is None else choice.kinds()


def _choice(constraints: Sequence[Any]) -> Choice | None:
    functions = (getattr(constraint, "func", None) for constraint in constraints)
    return next((one for one in functions if isinstance(one, Choice)), None)


def _section(info: FieldInfo) -> type[Config] | None:
    """The one config class that a field takes; None where it takes several, or none."""
    classes = [one for one in (info.annotation, *get_args(info.annotation)) if _is_config(one)]
    return classes[0] if len(classes) == 1 else None


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)


def _plain(value: Any) -> Any:
    return to_jsonable_python(value, serialize_as_any=True)


def _type_name(info: FieldInfo, *, kinds: list[str] | None, is_section: bool) -> str:
    annotation = info.annotation
    if kinds is not None or is_section:
        optional = ["None"] if type(None) in get_args(annotation) else []
        return " | ".join([*(kinds or ["section"]), *optional])
    literal = [str(a) for a in get_args(annotation) if isinstance(a, str)]
    if literal:
        return " | ".join(literal)
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return " | ".join(str(member.value) for member in annotation)
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return re.sub(r"(?:\w+\.)+(?=\w)", "", str(annotation))  # names without their modules


def _limits(info: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return ", ".join(
        f"{sign} {getattr(constraint, key)}"
        for constraint in info.metadata
        for key, sign in signs.items()
        if getattr(constraint, key, None) is not None
    )


def _kinds_first(setting: str) -> tuple[bool, int]:
    """Sort settings: kinds from the outermost inwards, then all others as they came."""
    path = setting.partition("=")[0].strip()
    is_kind = path.split(".")[-1] == "kind"
    return (not is_kind, path.count(".") if is_kind else 0)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(tree: Tree, path: list[str], value: Any, *, setting: str) -> None:
    node: Any = tree
    for depth, key in enumerate(path[:-1]):
        at = _place(node, key, setting=setting)
        if node[at] is None:
            node[at] = {}
        node = node[at]
        if not isinstance(node, dict | list):
            raise ConfigError(
                f"--set {setting!r}: {'.'.join(path[: depth + 1])!r} is a value ({node!r}), not a section."
            )
    last = _place(node, path[-1], setting=setting)
    if last == "kind" and node.get("kind") != value:
        node.clear()  # another kind has other fields
    node[last] = value


def _place(node: Any, key: str, *, setting: str) -> Any:
    """Return where a part of a path leads to: a name of a table, or a number of a list, from 0."""
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise ConfigError(f"--set {setting!r}: '{key}' is no place in a list of {len(node)}; they count from 0.")
        return int(key)
    node.setdefault(key, None)
    return key


def _merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    if "kind" in over and "kind" in base and over["kind"] != base["kind"]:
        return dict(over)
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _causes(details: Sequence[Any]) -> list[Any]:
    """Leave out that a list is too short where that is because of a mistake in what it holds."""
    places = [detail["loc"] for detail in details]

    def follows(detail: Any) -> bool:
        depth = len(detail["loc"])
        return detail["type"] == "too_short" and any(
            len(place) > depth and place[:depth] == detail["loc"] for place in places
        )

    return [detail for detail in details if not follows(detail)]


def _explain(cls: type[Config], tree: Mapping[str, Any], detail: Any) -> str:
    """Turn one pydantic error into a sentence with path, reason and nearest name."""
    location = [str(part) for part in detail["loc"]]
    # A kind resolved by the registry reports its own, already explained, mistakes.
    inner = detail.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return "\n".join(_join(location, line) for line in str(inner).splitlines())
    path = ".".join(location)
    if detail["type"] == "extra_forbidden":
        owner = _owner(cls, tree, location[:-1])
        options = list(owner.model_fields) if owner is not None else []
        hint = did_you_mean(location[-1], options) or (f" Valid names: {', '.join(options)}." if options else "")
        return f"{path}: there is no such setting.{hint}"
    if detail["type"] == "missing":
        return f"{path}: this setting is required."
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message} (got {detail['input']!r})."


def _join(location: list[str], line: str) -> str:
    """Prefix the path of a nested mistake: ``data`` + ``items: wrong`` → ``data.items: wrong``."""
    prefix = ".".join(location)
    head, separator, rest = line.partition(": ")
    is_path = bool(separator) and head.replace(".", "").replace("_", "").isalnum()
    return f"{prefix}.{head}: {rest}" if is_path else f"{prefix}: {line}"


def _owner(cls: type[Config], tree: Mapping[str, Any], location: list[str]) -> type[Config] | None:
    """Find the config class whose field names are valid at `location`."""
    owner: type[Config] | None = cls
    for part in location:
        info = owner.model_fields.get(part) if owner is not None else None
        if info is None:
            return None
        candidates = [info.annotation, *get_args(info.annotation)]
        owner = next((c for c in candidates if isinstance(c, type) and issubclass(c, Config)), None)
    return owner
