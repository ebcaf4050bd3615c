"""Components chosen by name: the file name is the kind.

A folder such as ``triptych/data/datasets`` is a registry. The file ``fashion.py`` in it is the kind ``fashion``:
it defines a config whose ``kind`` is ``Literal["fashion"]`` and says ``CONFIG = FashionConfig``. Files are listed
without importing them, and one is imported when asked for, so a missing optional library hurts only its own kind.
Adding a component is adding one file. The kind of a third party's is the path of its module, in the config that names
it and in its own ``kind``: ``kind: Literal["shopkit.my_index"] = "shopkit.my_index"``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BeforeValidator

from triptych.foundation.config import Config
from triptych.foundation.errors import ConfigError, did_you_mean


def kinds(package: str) -> list[str]:
    """List the kinds in a registry folder, sorted, without importing any of them."""
    folder = importlib.import_module(package)
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if module.name != "base")


def config_class(package: str, kind: str) -> type[Config]:
    """Import the one file that defines `kind` and return its ``CONFIG``.

    Raises:
        ConfigError: there is no such kind; the message names the nearest and lists all.
    """
    if "." in kind:
        try:
            module = importlib.import_module(kind)
        except ModuleNotFoundError as error:
            raise ConfigError(f"kind: cannot import '{kind}' ({error}).") from None
        if not hasattr(module, "CONFIG"):
            raise ConfigError(f"kind: module '{kind}' has no CONFIG, so it is not a component.")
        found = cast("type[Config]", module.CONFIG)
        if (own := found.model_fields["kind"].default) != kind:
            raise ConfigError(
                f"kind: the CONFIG of module '{kind}' is of kind '{own}'; outside of triptych a kind is the path of "
                f"its module. There, write kind: Literal['{kind}'] = '{kind}'."
            )
        return found
    known = kinds(package)
    if kind not in known:
        raise ConfigError(f"kind: unknown kind '{kind}'.{did_you_mean(kind, known)} Available: {', '.join(known)}.")
    return cast("type[Config]", importlib.import_module(f"{package}.{kind}").CONFIG)


def one_of(package: str, *, default: str | None = None) -> BeforeValidator:
    """Annotate a field as *any config of this registry, chosen by its* ``kind``.

    Args:
        package: the registry folder.
        default: the kind of a table that names none; None: it has to.

    Example:
        ``dataset: Annotated[DatasetConfig, one_of("triptych.data.datasets")]``
    """
    return BeforeValidator(_OneOf(package, default))


@dataclass(frozen=True)
class _OneOf:
    """Turns a table with a ``kind`` into that kind's config; an object, so that `config.describe` can ask the kinds."""

    package: str
    default: str | None = None

    def kinds(self) -> list[str]:
        return kinds(self.package)

    def section(self, kind: str) -> type[Config]:
        return config_class(self.package, kind)

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, Config):
            return value
        if isinstance(value, str):  # `dataset = "fashion"` is short for its defaults
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a table with a 'kind', not {value!r}.")
        if "kind" not in value and self.default is not None:
            value = {"kind": self.default, **value}
        if "kind" not in value:
            raise ValueError(f"'kind' is missing. Available: {', '.join(self.kinds())}.")
        try:
            return config_class(self.package, str(value["kind"])).parse(value)
        except ConfigError as error:
            raise _Explained(str(error)) from None


class _Explained(ConfigError, ValueError):
    """A mistake inside a chosen kind; pydantic carries ValueErrors, `Config.parse` unwraps this one."""
