"""Contrastive training of one text encoder by our loop and by sentence-transformers' trainer, side by side.

A BERT of random weights is written to a folder, and both sides open it. What is trained is the same function, the mean
of its states scaled to length 1: on our side `encoders.pretrained` opens and runs the model, and everything around it
is ours (tokens, sampler, batches one ahead, passes, contrast, loop). Only the layers that our encoders put behind a
pretrained text model are left out, as no setting of them is that function: `two_tower` has one block at least, and
`late_fusion` a head.

The pairs are generated titles and queries, one query to an item and one item to a query, so that both sides have the
same negatives. Their trainer gets our batches in our order, as texts; AdamW, schedule, clipping and decay are the same.
Dropout is 0. It tokenises in the main process, as it does when nothing is set.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from triptych.data.datasets.generated_shop import generate_items
from triptych.data.splits import Part, Targets, TrainPairs
from triptych.encoders.base import Encoder, EncoderConfig, unit
from triptych.encoders.inputs import ItemInputs, ItemReading, QueryReading, View
from triptych.encoders.pretrained import Output, PretrainedText, PretrainedTokenizer, model_input
from triptych.losses.base import LossOutput
from triptych.nn.precision import Precision
from triptych.pretrain.base import Given
from triptych.pretrain.model import PretrainModel
from triptych.pretrain.passes import MultitaskBatch
from triptych.pretrain.stage_task import Feed, StageTask
from triptych.pretrain.stages import Data
from triptych.pretrain.tasks.multitask import MultitaskConfig
from triptych.training.loop import LoopConfig, fit
from triptych.training.task import Validation

INSTALL = "python -m pip install 'sentence-transformers[train]>=5'"
THEIRS = ("sentence-transformers", "transformers", "accelerate", "datasets")
WARM_STEPS = 3
COMPARED = (
    "the same BERT with mean pooling on both sides; ours by our sampler, batches, passes, contrast and loop, without "
    "the layers that our encoders put behind a pretrained text model"
)


@dataclass(frozen=True)
class Size:
    """Model and training."""

    layers: int = 4
    dim: int = 256
    items: int = 2_048
    batch: int = 128
    at_once: int = 32
    """Rows at a time, in the way that caches gradients."""
    steps: int = 40
    vocab_size: int = 4_000
    max_tokens: int = 32


SMALL = Size(layers=1, dim=32, items=200, batch=32, at_once=8, steps=8, vocab_size=400)


class Pairs:
    """Titles and queries as our batches and a split would have them: one query for each item, asked for by no other."""

    def __init__(self, size: Size) -> None:
        rng = np.random.default_rng(0)
        found: dict[str, str] = {}
        for title in dict.fromkeys(generate_items(2 * size.items, seed=0)["title"].to_list()):
            words = title.lower().split()
            chosen = np.sort(rng.permutation(len(words))[: rng.integers(2, 6)])
            found.setdefault(" ".join(words[place] for place in chosen), title)
        self.queries, self.titles = (list(texts)[: size.items] for texts in (found.keys(), found.values()))
        self.num_items = len(self.titles)
        self.photos = SimpleNamespace(
            has=np.zeros(self.num_items, dtype=bool), photo_rows=np.full(self.num_items, -1, dtype=np.int32)
        )

    def train_pairs(self, _catalogue: Any) -> TrainPairs:
        """Return each query with its item."""
        rows = np.arange(self.num_items)
        return TrainPairs(rows, rows, np.ones(self.num_items, dtype=np.int32))

    def items_known(self, _catalogue: Any) -> np.ndarray:
        """All items were there from the start."""
        return np.ones(self.num_items, dtype=bool)

    def items_of_validation(self, _catalogue: Any) -> np.ndarray:
        """None came later."""
        return np.zeros(self.num_items, dtype=bool)

    def targets(self, _part: Part) -> Targets:
        """Return a target for one query: nothing is validated here."""
        return Targets(np.zeros(1, dtype=np.int32), np.arange(2), np.zeros(1, dtype=np.int32))


class MeanText(Encoder):
    """A pretrained text model's mean state, for queries and titles alike."""

    def __init__(self, config: EncoderConfig, *, folder: Path, vocab_size: int) -> None:
        nn.Module.__init__(self)
        self.config, self.vocab_size, self.patches = config, vocab_size, None
        self.model = PretrainedText(folder, output=Output.POOLED)

    def encode_queries(self, tokens: Tensor) -> Tensor:
        """Encode texts."""
        return unit(self.model(model_input(tokens))[:, 0])

    def encode_items(self, items: ItemInputs, *, view: View = View.ITEM) -> Tensor:
        """Encode titles."""
        assert items.title_tokens is not None
        return self.encode_queries(items.title_tokens)

    def read_queries(self, tokens: Tensor) -> QueryReading:
        """No objective here reads states."""
        raise NotImplementedError

    def read_items(self, items: ItemInputs) -> ItemReading:
        """No objective here reads states."""
        raise NotImplementedError

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Return the one part there is."""
        return {"text": ("model.",)}

    def rate_factors(self) -> dict[str, float]:
        """All of it is trained at the full rate."""
        return {}


class Noted:
    """Our stage, whose steps' beginnings and losses are noted."""

    def __init__(self, task: StageTask, times: list[float], curve: list[Tensor]) -> None:
        self.name, self.module = task.name, task.module
        self.batch, self.num_samples = task.batch, task.num_samples
        self._task, self._times, self._curve = task, times, curve

    def losses(self, batch: MultitaskBatch) -> LossOutput:
        """Note and pass on."""
        self._times.append(time.perf_counter())
        output = self._task.losses(batch)
        self._curve.append(output.total.detach())
        return output

    def validate(self) -> Validation:
        """Say that the last step is as good as any."""
        return Validation({"none": 0.0}, headline="none")


@dataclass
class Curve:
    """One training."""

    samples_per_s: float
    losses: list[float]


def is_installed() -> bool:
    """Say whether everything is there that their trainer takes."""
    return all(find_spec(name.replace("-", "_")) is not None for name in THEIRS)


def beside(precision: Precision, *, device: torch.device, rounds: int, folder: Path, is_small: bool) -> dict[str, Any]:
    """Alternate both trainings, with the whole batch at once and with cached gradients.

    Args:
        precision: of both.
        device: of both.
        rounds: how often each is done, from the same weights.
        folder: for the model and what is trained.
        is_small: a size that only shows that it runs.
    """
    size = SMALL if is_small else Size()
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = Pairs(size)
        save_bert(folder / "bert", texts=[*pairs.titles, *pairs.queries], size=size)
        ways = {}
        for name, at_once in (("whole batch", None), ("cached gradients", size.at_once)):
            config = config_of(size, precision=precision, device=device, at_once=at_once)
            ours, theirs = [], []
            for number in range(rounds):
                place = folder / f"{name}-{number}"
                ours.append(train_ours(config, pairs, bert=folder / "bert", out=place / "ours"))
                theirs.append(train_theirs(config, pairs, bert=folder / "bert", out=place / "theirs"))
            ways[name] = compared(ours, theirs)
    return {
        "compared": COMPARED,
        "versions": {name: metadata.version(name) for name in THEIRS},
        "size": vars(size),
        "ways": ways,
    }


def compared(ours: Sequence[Curve], theirs: Sequence[Curve]) -> dict[str, Any]:
    """Hold rounds against their neighbours; the curves are the first round's."""
    sides = {"triptych": ours, "sentence_transformers": theirs}
    differences = [abs(a - b) for a, b in zip(ours[0].losses, theirs[0].losses, strict=True)]
    return {
        "to_sentence_transformers": round(
            median(a.samples_per_s / b.samples_per_s for a, b in zip(ours, theirs, strict=True)), 3
        ),
        "samples_per_s": {name: round(median(one.samples_per_s for one in side), 1) for name, side in sides.items()},
        "all_rounds": {name: [round(one.samples_per_s, 1) for one in side] for name, side in sides.items()},
        "largest_loss_difference": max(differences),
        "loss_difference_of_first_step": differences[0],
        "losses": {name: [round(loss, 6) for loss in side[0].losses] for name, side in sides.items()},
    }


def save_bert(folder: Path, *, texts: list[str], size: Size) -> None:
    """Draw a BERT, and make a vocabulary of the texts."""
    import transformers
    from tokenizers import BertWordPieceTokenizer

    folder.mkdir()
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(texts, vocab_size=size.vocab_size, min_frequency=1, show_progress=False)
    words.save_model(str(folder))
    tokenizer: Any = transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=size.max_tokens)
    tokenizer.save_pretrained(folder)
    heads = size.dim // 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.dim,
            intermediate_size=4 * size.dim,
            num_hidden_layers=size.layers,
            num_attention_heads=heads,
            max_position_embeddings=size.max_tokens,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        transformers.BertModel(config).save_pretrained(folder)


def config_of(size: Size, *, precision: Precision, device: torch.device, at_once: int | None) -> MultitaskConfig:
    """Return the training, of which both sides read what they take."""
    return MultitaskConfig.parse(
        {
            "kind": "multitask",
            "stages": [{"name": "pairs", "tasks": [{"kind": "contrast", "temperature": 0.05}]}],
            # One more than their texts: our [CLS], which is taken off before the model sees it.
            "encoder": {
                "kind": "two_tower",
                "modalities": "title",
                "max_query_tokens": size.max_tokens + 1,
                "max_title_tokens": size.max_tokens + 1,
            },
            "batch_items": size.batch,
            "queries_per_item": 1,
            "item_power": 0,
            "rows_at_once": at_once,
            "loop": {
                "steps": size.steps,
                "learning_rate": 3e-4,
                "warmup_steps": size.steps // 4,
                "validate_every": size.steps,
                "checkpoint_every_s": 1e6,
                "precision": precision.value,
                "device": device.type,
            },
        }
    )


def our_task(config: MultitaskConfig, pairs: Pairs, *, bert: Path) -> tuple[StageTask, Feed]:
    """Make our stage around the mean of the model's states."""
    given_pairs: Any = pairs
    tokenizer = PretrainedTokenizer(bert)
    given = Given(catalogue=given_pairs, split=given_pairs, tokenizer=tokenizer, seed=0)
    stage = config.stages[0]
    model = PretrainModel(
        MeanText(config.encoder, folder=bert, vocab_size=tokenizer.vocab_size),
        cross_layers=None,
        objectives=stage.tasks,
        batch_items=config.batch_items,
        seed=0,
    )
    model.train_only(None, labels=[task.label for task in stage.tasks])
    feed = Feed(config, given, stages=(stage,))
    return StageTask(config, given, stage=stage, tasks=stage.tasks, model=model, feed=feed, first_batch=0), feed


def train_ours(config: MultitaskConfig, pairs: Pairs, *, bert: Path, out: Path) -> Curve:
    """Train by our loop."""
    task, _ = our_task(config, pairs, bert=bert)
    times: list[float] = []
    curve: list[Tensor] = []
    out.mkdir(parents=True)
    fit(Noted(task, times, curve), config=config.loop, out=out, seed=0)
    return curve_of(times, curve, batch=config.batch_items)


def curve_of(times: Sequence[float], curve: Sequence[Tensor], *, batch: int) -> Curve:
    """Read the rate off the beginnings of the steps, the first left out."""
    rate = (len(times) - 1 - WARM_STEPS) * batch / (times[-1] - times[WARM_STEPS])
    return Curve(rate, [float(loss) for loss in curve])


def train_theirs(config: MultitaskConfig, pairs: Pairs, *, bert: Path, out: Path) -> Curve:
    """Train by their trainer on our batches."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from datasets import Dataset
    from datasets.utils import disable_progress_bars
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    disable_progress_bars()
    loop = config.loop
    _, feed = our_task(config, pairs, bert=bert)
    drawn = [feed.draw(index, data=Data.CLICKS) for index in range(loop.steps)]
    texts = {
        "anchor": [pairs.queries[row] for one in drawn for row in one.query_rows],
        "positive": [pairs.titles[row] for one in drawn for row in one.item_rows[one.positive]],
    }
    times: list[float] = []
    curve: list[Tensor] = []
    model = SentenceTransformer(str(bert), device=loop.device)
    arguments = Arguments(
        output_dir=str(out),
        max_steps=loop.steps,
        per_device_train_batch_size=config.batch_items,
        bf16=loop.precision is Precision.BF16,
        use_cpu=loop.device == "cpu",
        max_grad_norm=loop.clip_norm,
        batch_sampler=in_order,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(texts),
        loss=their_loss(model, at_once=config.rows_at_once, times=times, curve=curve),
        optimizers=their_optimizer(model, loop),
    )
    trainer.train()
    return curve_of(times, curve, batch=config.batch_items)


def their_loss(model: Any, *, at_once: int | None, times: list[float], curve: list[Tensor]) -> nn.Module:
    """Make their in-batch softmax at our temperature, noting as `Noted` does."""
    from sentence_transformers.sentence_transformer import losses

    kind = losses.MultipleNegativesRankingLoss if at_once is None else losses.CachedMultipleNegativesRankingLoss

    class Noting(kind):  # type: ignore[misc, valid-type]
        def forward(self, *inputs: Any, **named: Any) -> Tensor:
            times.append(time.perf_counter())
            found: Tensor = super().forward(*inputs, **named)
            curve.append(found.detach())
            return found

    return Noting(model, scale=20.0) if at_once is None else Noting(model, scale=20.0, mini_batch_size=at_once)


def their_optimizer(model: nn.Module, loop: LoopConfig) -> tuple[torch.optim.Optimizer, Any]:
    """Make the optimiser and the schedule of our loop."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": loop.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=loop.learning_rate, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: loop.learning_rate_at(min(step, loop.steps)) / loop.learning_rate
    )


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
    """Sample the pairs as they stand."""
    from sentence_transformers.base.sampler import DefaultBatchSampler

    return DefaultBatchSampler(range(len(dataset)), batch_size=batch_size, drop_last=drop_last)
