r"""RQ-VAE: an encoder makes a short vector, residual codebooks quantise it, a decoder makes the vector again.

.. math:: L = \|x - \mathrm{Dec}(\hat z)\|^2 + \sum_l \|\mathrm{sg}[r_l] - e_{l,c_l}\|^2
          + \beta \sum_l \|r_l - \mathrm{sg}[e_{l,c_l}]\|^2

Source: Lee et al., "Autoregressive Image Generation using Residual Quantization" (2022), as semantic IDs: Rajput et
al., "Recommender Systems with Generative Retrieval" (TIGER, 2023). Differences: every square is a mean over numbers
and vectors, as in LC-Rec's code; vectors are centred and divided by one number, so that a number's mean square is 1,
which changes no direction; codebooks start as residual k-means of what the untrained encoder makes of a sample.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triptych.foundation.errors import ArtifactError, DataError
from triptych.losses.base import LossOutput
from triptych.nn.quantizer import CodebookUpdate, GradientPath, ResidualQuantizer
from triptych.semantic_ids.base import WEIGHTS_FILE, Quantizer, TrainedConfig
from triptych.semantic_ids.quantizers.residual_kmeans import ResidualKmeansConfig
from triptych.semantic_ids.vectors import check_shape, draw

START_ITERATIONS = 10
EMA_DECAY = 0.99


class RqVaeConfig(TrainedConfig):
    """RQ-VAE."""

    kind: Literal["rq_vae"] = "rq_vae"
    """Name of the file that defines it."""
    hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of the encoder's hidden layers, each followed by a ReLU; the decoder has them the other way round."""
    latent_dim: int = Field(64, ge=1)
    """Length of what is quantised."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the encoder's loss for what its codes leave unsaid (beta)."""
    update: CodebookUpdate = CodebookUpdate.GRADIENT
    """How codebooks learn: gradient, or ema (moving averages of what was assigned; dead codes are replaced)."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Share of a moving average that a batch leaves as it is, only with update = ema; 0.99 when not given."""
    gradient_path: GradientPath = GradientPath.STRAIGHT_THROUGH
    """How gradients pass the codes: straight_through, or rotation (turned as the vector is into its codes)."""
    start_per_code: int = Field(64, ge=1)
    """Vectors for each code that the first codebooks, and mean and scale, are learned from, drawn."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.ema_decay is not None and self.update is not CodebookUpdate.EMA:
            raise ValueError("ema_decay has no effect with update = 'gradient'. Remove it, or set update = 'ema'.")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths are at least 1, not {list(self.hidden)}.")
        return self

    def start(self, vectors: NDArray[Any], *, rows: NDArray[np.int64] | None = None) -> RqVaeTraining:
        """Draw the weights, and let the codebooks be residual k-means of what they make of a sample."""
        check_shape(vectors)
        self.require_enough(len(vectors) if rows is None else len(rows))
        rng = np.random.default_rng(self.seed)
        sample = draw(vectors, of=rows, size=self.start_per_code * self.codes, rng=rng)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = RqVaeModule(self, dim=vectors.shape[1])
        module.measure(sample)
        kmeans = ResidualKmeansConfig(levels=self.levels, codes=self.codes, iterations=START_ITERATIONS)
        codebooks = kmeans.learn(RqVae(module).encode(sample), rng=rng)
        module.quantizer.set_codebooks(torch.from_numpy(codebooks))
        return RqVaeTraining(self, module)

    def open_saved(self, folder: Path) -> RqVae:
        """Read the weights."""
        path = folder / WEIGHTS_FILE
        try:
            weights = load_file(path)
            module = RqVaeModule(self, dim=len(weights["mean"]))
            module.load_state_dict(weights)
        except (FileNotFoundError, SafetensorError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(f"{str(path)!r} cannot be read ({reason}). Make the semantic IDs again.") from None
        return RqVae(module)


CONFIG = RqVaeConfig


class RqVaeModule(nn.Module):
    """Encoder, codebooks, decoder."""

    def __init__(self, config: RqVaeConfig, *, dim: int) -> None:
        """Draw the weights; mean, scale and codebooks are still to be set.

        Args:
            config: sizes.
            dim: length of the vectors.
        """
        super().__init__()
        widths = [dim, *config.hidden, config.latent_dim]
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.encoder = _layers(widths)
        self.quantizer = ResidualQuantizer(
            levels=config.levels,
            codes=config.codes,
            dim=config.latent_dim,
            update=config.update,
            gradient_path=config.gradient_path,
            ema_decay=config.ema_decay or EMA_DECAY,
        )
        self.decoder = _layers(widths[::-1])

    @torch.no_grad()
    def measure(self, sample: NDArray[np.float32]) -> None:
        """Take mean and scale from a sample ``[n, dim]``.

        Raises:
            DataError: all vectors are the same.
        """
        mean = sample.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(np.square(sample - mean).mean()))
        if not scale > 0 or (sample == sample[:1]).all():
            raise DataError(f"semantic ids: all {len(sample)} vectors are the same; there is nothing to learn from.")
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.fill_(scale)

    def scaled(self, vectors: Tensor) -> Tensor:
        """Return vectors ``[n, dim]`` as the encoder reads and the decoder makes them."""
        return (vectors - self.mean) / self.scale


class RqVaeTraining:
    """What the training loop changes."""

    def __init__(self, config: RqVaeConfig, module: RqVaeModule) -> None:
        """Take a module whose codebooks are set."""
        self.module = module
        self._config = config

    def losses(self, vectors: Tensor) -> LossOutput:
        """Return the loss of vectors ``[batch, dim]``.

        Returns:
            Parts: ``reconstruction`` (1 would be the mean of all vectors), ``codebook`` and ``commitment`` (the same
            number, summed over levels), ``first_level_used_rate`` (of the batch).
        """
        module = self.module
        wanted = module.scaled(vectors)
        quantized = module.quantizer(module.encoder(wanted))
        reconstruction = nn.functional.mse_loss(module.decoder(quantized.vectors).float(), wanted)
        codebook, commitment = quantized.codebook.sum(), quantized.commitment.sum()
        total = reconstruction + self._config.commitment * commitment
        if self._config.update is CodebookUpdate.GRADIENT:
            total = total + codebook
        used = torch.bincount(quantized.codes[:, 0], minlength=self._config.codes) > 0
        parts = {
            "reconstruction": reconstruction,
            "codebook": codebook,
            "commitment": commitment,
            "first_level_used_rate": used.float().mean(),
        }
        return LossOutput(total, parts)

    def frozen(self) -> RqVae:
        """Copy the weights of this moment into a quantiser."""
        return RqVae(self.module)


class RqVae(Quantizer):
    """A frozen RQ-VAE.

    Encoder and decoder compute in float64, so that what a vector becomes does not depend, in the digits that are kept,
    on how many are encoded together.
    """

    def __init__(self, module: RqVaeModule) -> None:
        """Copy the weights of a module, which may be on any device and go on learning."""
        self._saved = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        self._module = deepcopy(module).cpu().double().eval()
        super().__init__(self._saved["quantizer.codebooks"].numpy(), dim=len(module.mean))

    @property
    def widest(self) -> int:
        """Its widest layer, twice, or the scores of all codes."""
        widths = [layer.out_features for layer in (*self._module.encoder, *self._module.decoder) if _is_linear(layer)]
        return max(self.num_codes, 2 * max(widths))

    @torch.no_grad()
    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the encoder makes of vectors."""
        found = self._module.encoder(self._module.scaled(torch.from_numpy(vectors).double()))
        latents: NDArray[np.float32] = found.float().numpy()
        return latents

    @torch.no_grad()
    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the decoder makes of sums of codes."""
        found = self._module.decoder(torch.from_numpy(latents).double()) * self._module.scale + self._module.mean
        vectors: NDArray[np.float32] = found.float().numpy()
        return vectors

    def save(self, folder: Path) -> None:
        """Write ``quantizer.safetensors``."""
        save_file(self._saved, folder / WEIGHTS_FILE)


def _layers(widths: list[int]) -> nn.Sequential:
    """Make linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for one, other in pairwise(widths):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear)
