"""Simulated shoppers, version 1: a search log over any catalogue whose items have attribute columns.

Photos and what is left of the titles stay as they are; *behaviour is simulated*, and every table made from it says so.
Shoppers want one to three attributes and mostly say so in words that titles do not use; titles lose about half of the
words for what a photo shows; an old search engine lays out pages; a click depends on true relevance, popularity, the
user's taste, a hidden part that no content shows, the position, and chance.

Modules, in the order in which a log comes about: `lexicon` (words for attribute values), `config`, `market` (titles,
cells, arrivals), `intents` (wants, grades, query strings), `pages` (users, the old engine's pages, clicks), `log`
(tables), `statistics`. The parameters were fixed before the first model was compared. **A change to any of this that
changes a log is version 2**: raise `ShoppersConfig.version`, and rerun every table.
"""

from __future__ import annotations

from triptych.data.simulate.config import ShoppersConfig
from triptych.data.simulate.lexicon import Attribute, Words
from triptych.data.simulate.log import Simulation, simulate
from triptych.data.simulate.statistics import statistics_table

__all__ = ["Attribute", "ShoppersConfig", "Simulation", "Words", "simulate", "statistics_table"]
