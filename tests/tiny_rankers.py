"""Rankers of a few numbers, and candidates for them that are in no log."""

from __future__ import annotations

import torch

from triptych.foundation.registry import config_class
from triptych.nn.bags import TableBags
from triptych.nn.query_former import ModalityTokens
from triptych.ranker.base import CONTENTS, MODELS
from triptych.ranker.inputs import Candidates, ItemFeatures, RequestFeatures, Sizes

SIZES = Sizes(
    item_fields={"item": 9, "category": 4},
    item_lists={"tags": 6},
    item_numbers=("price",),
    request_fields={"user": 5, "hour": 25},
    request_lists={"query words": 7},
    sample_numbers=("age",),
    gap_rows=5,
    kind_rows=3,
    modalities={"image": 6, "text": 3},
    catalogue_items=40,
)
ITEMS, REQUESTS, LONGEST = 7, 3, 4
SMALL = {"dim": 4, "hidden_dims": (8,)}
CODES = {"kind": "semantic_ids", "codes": 5, "code_dim": 4, "dim": 8}
LEVELS = 3
EM3 = {"kind": "em3", "dim": 8, "heads": 2, "contrast_dim": 4}


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def candidates(*, content=True, codes=False):
    """Three requests with histories of four, two and no steps, and five candidates."""
    generator = drawn()
    bags = [torch.tensor(rows) for rows in ([[1, 2], [3, -1], [-1, -1], [5, 1], [2, -1], [4, -1], [-1, -1]],)]
    tokens = [
        ModalityTokens(torch.randn(ITEMS, count, dim, generator=generator), torch.rand(ITEMS, count) < 2)
        for count, dim in ((2, 6), (1, 3))
    ]
    tokens[1].keep[2] = False
    if codes:  # semantic IDs in the place of vectors; one item has none
        drawn_codes = torch.randint(0, CODES["codes"], (ITEMS, 1, LEVELS), generator=generator).float()
        tokens = [ModalityTokens(drawn_codes, (torch.arange(ITEMS) != 2)[:, None])]
    steps = torch.tensor([[0, 3, 5, 3], [6, 1, -1, -1], [-1, -1, -1, -1]])
    rows = torch.arange(1, 13).view(REQUESTS, LONGEST)
    return Candidates(
        ItemFeatures(
            item_rows=torch.tensor([2, 3, 5, 8, 13, 21, 34]),
            fields=torch.tensor([[1, 1], [2, 2], [0, 3], [4, 1], [5, 0], [6, 3], [8, 2]]),
            lists=tuple(TableBags.of(one.numpy()) for one in bags),
            numbers=torch.rand(ITEMS, 2, generator=generator),
            content=tuple(tokens) if content else (),
        ),
        RequestFeatures(
            fields=torch.tensor([[1, 3], [0, 7], [4, 24]]),
            lists=(TableBags.of(torch.tensor([[1, 6], [-1, -1], [2, -1]]).numpy()),),
            steps=steps,
            gaps=torch.where(steps >= 0, rows % 5, 0),
            kinds=torch.where(steps >= 0, rows % 3, 0),
        ),
        request=torch.tensor([0, 0, 1, 2, 2]),
        target=torch.tensor([1, 3, 4, 2, 5]),
        numbers=torch.rand(5, 2, generator=generator),
    )


def padded(given, *, by=3):
    """The same with columns behind the end of all histories, which hold anything where they may."""
    requests = given.requests
    more = torch.zeros(REQUESTS, by, dtype=torch.int64)
    wider = requests._replace(
        steps=torch.cat([requests.steps, more - 1], dim=1),
        gaps=torch.cat([requests.gaps, more + 2], dim=1),
        kinds=torch.cat([requests.kinds, more + 1], dim=1),
    )
    return given._replace(requests=wider)


def model_of(kind, content="none", **settings):
    content = config_class(CONTENTS, content["kind"] if isinstance(content, dict) else content).parse(
        content if isinstance(content, dict) else {"kind": content}
    )
    config = config_class(MODELS, kind).parse({"kind": kind, **SMALL, **settings})
    read = {"semantic_id": LEVELS} if content.reads_codes else SIZES.modalities if content.reads_modalities else {}
    sizes = SIZES._replace(modalities=read)
    return config.build(sizes, content=content, seed=0)


def warmed(model):
    """In evaluation mode, with weights that are not as drawn: biases and slopes count too."""
    generator = drawn(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()
