"""Recipes: whole pipelines as functions that return a config; a config file or ``--set`` changes what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from triptych.foundation.config import read_tree
from triptych.foundation.errors import ConfigError, did_you_mean
from triptych.recipes.catalogue import catalogue
from triptych.recipes.config import RunConfig
from triptych.recipes.demo import demo
from triptych.recipes.fashion import fashion
from triptych.recipes.feed import feed
from triptych.recipes.grocery import grocery
from triptych.recipes.homedepot import homedepot
from triptych.recipes.judged import judged
from triptych.recipes.movielens import movielens
from triptych.recipes.shop import shop

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "shop": shop,
    "feed": feed,
    "judged": judged,
    "catalogue": catalogue,
    "fashion": fashion,
    "movielens": movielens,
    "homedepot": homedepot,
    "grocery": grocery,
}


class Resolved(NamedTuple):
    """A config, and where its relative paths start."""

    config: RunConfig
    base: Path


def resolve(source: str, *, settings: Sequence[str]) -> Resolved:
    """Find a recipe or read a config file, and apply settings.

    Args:
        source: the name of a recipe, or the path of a TOML or JSON file. A file names the recipe it starts from
            (``recipe = "shop"``; shop where it does not) and holds what differs from it.
        settings: ``a.b=value`` overrides, applied last.

    Raises:
        ConfigError: there is no such recipe or file, or a setting is wrong.
    """
    path = Path(source)
    # The recipe is what all else is laid over, so that it cannot be one override among others.
    started_from = [one.partition("=")[2] for one in settings if one.partition("=")[0].strip() == "recipe"]
    settings = [one for one in settings if one.partition("=")[0].strip() != "recipe"]
    if path.suffix in {".toml", ".json"}:
        tree = read_tree(path)
        if started_from:
            tree = {**tree, "recipe": started_from[-1].strip()}
        config = _recipe(str(tree.get("recipe", "shop")), where=f"{path}: recipe")().merged(tree)
        base = path.resolve().parent
    else:
        config = _recipe(started_from[-1].strip() if started_from else source, where="recipe")()
        base = Path.cwd()
    return Resolved(config.override(*settings), base)


def _recipe(name: str, *, where: str) -> Callable[[], RunConfig]:
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES)
        raise ConfigError(
            f"{where}: there is no recipe '{name}'.{hint} Recipes: {', '.join(RECIPES)}; or give a .toml or .json file."
        )
    return RECIPES[name]
