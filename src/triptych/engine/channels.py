"""Which channel answers: the one that is asked for, if the shop has it and it can read the request, else the best."""

from __future__ import annotations

from triptych.engine.answers import Channel
from triptych.engine.snapshot import BY_VECTORS, Snapshot
from triptych.foundation.errors import EngineError, did_you_mean

BY_MEANING = (*BY_VECTORS, Channel.GENERATIVE, Channel.HYBRID)
"""Channels in which an encoder reads the words."""
RECOMMENDING = (*BY_VECTORS, Channel.ITEM_KNN, Channel.POPULARITY)
"""Channels that answer users."""


def channel_of_search(now: Snapshot, channel: Channel | str | None, *, text: str | None, has_photo: bool) -> Channel:
    """Return the channel that answers words, a photo or both.

    Raises:
        EngineError: there is none of that name, the shop lacks it, or it cannot read the photo.
    """
    if channel is None:
        usual = now.usual_channel if not has_photo and text is not None else Channel.DENSE
        lost = usual is Channel.RECALL and now.recall is not None and not now.recall.knows(text or "")
        return Channel.DENSE if lost else usual
    chosen = _channel(channel)
    if has_photo and chosen not in (Channel.DENSE, Channel.HYBRID):
        raise EngineError(f"Channel '{chosen}' reads no photos. Use channel 'dense', or leave the photo out.")
    if chosen is Channel.HYBRID and now.hybrid is None:
        raise EngineError("This shop has no hybrid. Use another channel, or run it with [hybrid] set.")
    if chosen is Channel.GENERATIVE and now.generation is None:
        raise EngineError(
            "This shop has no decoder of semantic IDs. Use another channel, or run it with [generative] set."
        )
    if chosen is Channel.RECALL and now.recall is None:
        raise EngineError("This shop has no recall model. Use channel 'dense', or run it with [recall] set.")
    if chosen is Channel.ITEM_KNN:
        raise EngineError("Channel 'item_knn' answers users, not searches. Use another channel, or recommend.")
    if chosen is Channel.RECALL and now.recommender is not None:
        raise EngineError("This shop's recall model answers users, not searches. Use channel 'dense', or recommend.")
    return chosen


def channel_of_recommendation(now: Snapshot, channel: Channel | str | None) -> Channel:
    """Return the channel that answers users and histories.

    Raises:
        EngineError: there is none of that name, the shop lacks it, or it answers no users.
    """
    if channel is None:
        return now.recommending_channel
    chosen = _channel(channel)
    if chosen not in RECOMMENDING:
        raise EngineError(f"Channel '{chosen}' answers searches. Recommend by {', '.join(RECOMMENDING)}.")
    if chosen is Channel.RECALL and now.recommender is None:
        raise EngineError(
            "This shop has no recall model that answers users. Use channel 'dense', or run a recipe without "
            "queries with [recall] set."
        )
    if chosen is Channel.ITEM_KNN and now.item_knn is None:
        raise EngineError("This shop has no item-kNN. Use channel 'dense', or run a recipe without queries.")
    return chosen


def _channel(channel: Channel | str) -> Channel:
    try:
        return Channel(channel)
    except ValueError:
        names = [one.value for one in Channel]
        hint = did_you_mean(str(channel), names) or f" Valid: {', '.join(names)}."
        raise EngineError(f"There is no channel '{channel}'.{hint}") from None
