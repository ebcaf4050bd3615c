"""The parameters of the simulated shoppers. They are hashed into whatever is made with them."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field

from triptych.foundation.config import Config


class ShoppersConfig(Config):
    """Sizes and strengths of a simulated log.

    The defaults are those of the headline data (about ten thousand items); they were chosen to resemble the log of
    the feasibility study, without looking at any trained model.
    """

    version: Literal[1] = 1
    """Version of the simulator. Another version is another log."""

    num_pages: int = Field(110_000, gt=0)
    """Result pages shown over all days."""
    num_intents: int = Field(1_500, gt=0)
    """Different wants (an item type with up to two more attributes); fewer where the catalogue has no more."""
    min_matches: int = Field(3, ge=1)
    """Fewest items that match a want in full."""
    num_users: int = Field(12_000, gt=0)
    """Users; how much each one shops varies."""
    num_days: int = Field(8, ge=3)
    """Days of the log."""
    start: date = date(2026, 3, 2)
    """First day (UTC)."""

    own_word_rate: float = Field(0.25, ge=0, le=1)
    """Probability that a query names an attribute in the title's own word instead of a synonym."""
    phrasings: float = Field(2.0, ge=0)
    """Mean number of further ways to say a want, beside the first (Poisson)."""
    title_keep: float = Field(0.5, ge=0, le=1)
    """Probability that a title keeps its words for a visual attribute."""

    min_page_items: int = Field(10, gt=0)
    """Fewest items on a page."""
    max_page_items: int = Field(20, gt=0, le=64)
    """Most items on a page."""
    pool_items: int = Field(600, gt=0)
    """Items of all cells that the old engine considers for a want."""
    engine_noise_sd: float = Field(0.8, ge=0)
    """Standard deviation of the chance in the old engine's scores, per page and item."""

    clicks_per_page: float = Field(2.2, gt=0)
    """Mean clicks on a page; the overall click rate is solved for it."""
    grade_appeal: tuple[float, float, float, float] = (0.015, 0.08, 0.1, 1.0)
    """Relative click rate of grades 0, 1, 2, 3, all else equal."""
    zipf: float = Field(0.45, ge=0)
    """Exponent of the items' Zipf popularity in the click rate (and, by its logarithm, in the old engine)."""
    taste_sd: float = Field(0.5, ge=0)
    """Standard deviation of the users' tastes in log click rate."""
    hidden_sd: float = Field(1.2, ge=0)
    """Standard deviation, in log click rate, of what no content shows (price against expectation, the merchant's
    name, delivery time). Tables about ids print 0, 0.6, 1.2 and 1.8."""
    hidden_item_share: float = Field(0.25, ge=0, le=1)
    """Share of the hidden variance that belongs to the item; the rest belongs to the pair of want and item."""
    noise_sd: float = Field(0.4, ge=0)
    """Standard deviation of the chance in log click rate, per impression."""
    position_decay: float = Field(0.6, ge=0)
    """Position bias: the click rate falls as (1 + position) to the power of minus this."""
    cart_rate: float = Field(0.12, ge=0, le=1)
    """Probability that a click is followed by a cart event."""
    order_rate: float = Field(0.4, ge=0, le=1)
    """Probability that a cart event is followed by an order."""

    num_cells: int = Field(10, gt=0)
    """Delivery cells. A page shows only items of its user's cell."""
    max_item_cells: int = Field(3, gt=0)
    """An item lives in one to this many cells."""
    new_item_rate: float = Field(0.08, ge=0, lt=0.5)
    """Share of the items that arrive on each of the last two days; nobody saw them before."""
    new_item_boost: float = Field(0.9, ge=0)
    """What the old engine adds to the score of items that have just arrived."""
