"""Whether the pretrained models of a run go with its config: told before the tables are read."""

from __future__ import annotations

from collections.abc import Mapping

from triptych.encoders.pretrained import other_px
from triptych.foundation.artifact import Artifact
from triptych.foundation.errors import ConfigError
from triptych.recipes.config import RunConfig


def check_models(config: RunConfig, models: Mapping[str, Artifact]) -> None:
    """Compare what the models take with what the config would give them.

    Args:
        config: of the run.
        models: field of the encoder's config → artefact ``pretrained``.

    Raises:
        ConfigError: a model reads no texts or no photos, or texts or photos are of a size it does not take.
    """
    if "text_model" in models:
        _check_text(config, models["text_model"])
    if "vision_model" in models:
        _check_vision(config, models["vision_model"])


def _check_text(config: RunConfig, model: Artifact) -> None:
    what, longest = _named(model), model.summary["max_tokens"]
    if longest is None:
        raise ConfigError(f"pretrain.encoder.text_model: {what} reads no texts, or came without its tokenizer's files.")
    for field in ("max_query_tokens", "max_title_tokens"):
        tokens = getattr(config.pretrain.encoder, field)
        if tokens > longest + 1:  # our own [CLS] stands before what the model reads
            raise ConfigError(
                f"pretrain.encoder.{field} is {tokens}, and {what} reads texts of up to {longest} tokens. Set it to at "
                f"most {longest + 1}."
            )


def _check_vision(config: RunConfig, model: Artifact) -> None:
    what, px = _named(model), model.summary["photo_px"]
    if px is None:
        raise ConfigError(f"pretrain.encoder.vision_model: {what} reads no photos.")
    seen_by = config.pretrain.encoder.vision_model
    if seen_by is not None and seen_by.cut is not None:
        asked = seen_by.cut.px
        if asked is not None and asked != px and not model.summary.get("takes_any_px", True):  # older copies do not say
            raise ConfigError(f"pretrain.encoder.vision_model: {other_px(what, px=px, asked=asked)}")
        return
    if px != config.catalogue.photo_px:
        raise ConfigError(
            f"catalogue.photo_px and pretrain.encoder.photo_px are {config.catalogue.photo_px}, and {what} takes "
            f"photos of {px} px. Set both to {px}."
        )


def _named(model: Artifact) -> str:
    return f"'{model.summary['name']}' ({model.summary['architecture']})"
