"""OGM-GE: hold back the modality that is ahead, so that the other one goes on learning."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from triptych.encoders.inputs import View
from triptych.pretrain.passes import Passes

TEXT, PHOTO = "text", "photo"
"""Parts of the encoder, one for each modality."""


class OgmGe:
    """On-the-fly gradient modulation with generalisation enhancement.

    The modality whose vectors alone give the right item the higher probability has its gradient multiplied by
    1 - tanh(alpha * ratio), and noise of the gradient's own standard deviation added, which damping takes away.

    Source: Peng et al., "Balanced multimodal learning via on-the-fly gradient modulation", 2022, eq. 8 to 12 and its
    released code. There two classifiers' logits are compared; here the items' vectors with one modality hidden. The
    text part reads queries too, so that holding it back holds them back as well.
    """

    def __init__(self, model: nn.Module, *, parts: Mapping[str, tuple[str, ...]], alpha: float) -> None:
        """Hang on to the weights of both modalities.

        Args:
            model: whose weights are trained.
            parts: part → beginnings of its weights' names.
            alpha: how hard the leading modality is held back; > 0.
        """
        self.factors = {TEXT: 1.0, PHOTO: 1.0}
        """What gradients are multiplied by, since the last `look`."""
        self._alpha = alpha
        self._hooks = [
            weight.register_hook(lambda gradient, part=part: self._modulated(gradient, part))
            for part in self.factors
            for name, weight in model.named_parameters()
            if weight.requires_grad and name.startswith(parts[part])
        ]

    def look(self, passes: Passes, *, temperature: float) -> dict[str, Tensor]:
        """Compare the modalities on a batch, before its gradient is computed; returns what is worth logging.

        Only items with title and photo are compared, and with one another: to hide the one modality of an item that has
        no other says nothing of either. Of several processes each compares them on the whole batch, so that all hold
        back the same.

        Args:
            passes: of the batch.
            temperature: divides scores, as that of the loss does now.
        """
        text, photo = (self._confidence(passes, view, temperature=temperature) for view in (View.TITLE, View.PHOTO))
        ratio = photo / text
        self.factors[PHOTO] = float(1 - math.tanh(self._alpha * ratio)) if ratio > 1 else 1.0
        self.factors[TEXT] = float(1 - math.tanh(self._alpha / ratio)) if ratio < 1 else 1.0
        device, share = passes.batch.has_title.device, 1 / passes.num_processes  # what is logged is added up
        return {
            f"held_back/{part}": torch.tensor((1 - factor) * share, device=device)
            for part, factor in self.factors.items()
        }

    def remove(self) -> None:
        """Let go of the weights."""
        for hook in self._hooks:
            hook.remove()

    def _confidence(self, passes: Passes, view: View, *, temperature: float) -> float:
        """Return the mean probability of the right item, by one modality alone."""
        batch = passes.batch
        both = batch.has_title & batch.has_photo
        asked = both[batch.positive]
        if not asked.any():
            return 1.0
        queries = passes.query_vectors.detach()  # made with a gradient: a pass is shared by all who ask
        with torch.no_grad():
            items = passes.of_all(passes.encoder.encode_items(batch.items.only(view)))
            scores = queries[asked] @ items.T / temperature
            own = batch.positive[asked, None]
            others = (batch.known[asked] | ~both).scatter(1, own, False)
            scores = scores.masked_fill(others, float("-inf"))
            return float(scores.softmax(dim=1).gather(1, own).mean()) + 1e-9

    def _modulated(self, gradient: Tensor, part: str) -> Tensor:
        factor = self.factors[part]
        if factor == 1.0:
            return gradient
        return gradient * factor + torch.randn_like(gradient) * gradient.std(unbiased=False)
