"""A tower of tokens on a shop whose answer is known: titles name the thing, and only the IDs say its colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_content import WORDS, Encoder, content_of

from triptych.foundation.errors import ConfigError, DataError, EngineError
from triptych.index.backends.exact import ExactIndex
from triptych.recall import train
from triptych.recall.base import Request
from triptych.recall.config import RecallTrainConfig
from triptych.recall.item_codes import ItemCodes
from triptych.recall.retriever import LearnedRetriever
from triptych.recall.task import Given, RecallTask
from triptych.training.distributed import ALONE

PER_EPOCH = 2
"""Batches of 15 pages in which each of the training part is seen once."""


def item_codes(catalogue) -> ItemCodes:
    """The thing, then the colour; what the codes stand for is the word's own direction."""
    codes = np.array([[WORDS.index(word) for word in item_id.split("-")[:2]] for item_id in catalogue.item_ids])
    return ItemCodes(codes, np.tile(content_of(WORDS), (2, 1, 1)))


def given(shop, **changes) -> Given:
    catalogue, codes = shop.catalogue, item_codes(shop.catalogue)
    dense = content_of([item_id.replace("-", " ") for item_id in catalogue.item_ids])
    things = content_of([item_id.split("-")[0] for item_id in catalogue.item_ids])
    made = Given(catalogue, shop.split, content_of(catalogue.queries), dense, 0, ALONE, None, things, (codes,))
    return Given(**{**vars(made), **changes})


def config(*, tasks: dict | None = None, content: str = "sid", **settings) -> RecallTrainConfig:
    model = {"kind": "semantic_tower", "dim": 16, "heads": 2, "content": content, "tasks": tasks}
    tree = {"batch_pages": 15, "num_negatives": 40, "epochs": 8, "validations": 1, "validation_k": 1}
    return RecallTrainConfig.parse({**tree, "learning_rate": 3e-3, "device": "cpu", **settings, "model": model})


def recall(shop, out, **settings) -> float:
    made = train.run(config(**settings), given(shop), inputs={"shop": "planted"}, out=out)
    return made.summary["metrics"]["recall@1"]


@pytest.fixture(scope="module")
def made(planted_shop, tmp_path_factory):
    out = tmp_path_factory.mktemp("tower")
    return train.run(config(tasks={}, epochs=20), given(planted_shop), inputs={"shop": "planted"}, out=out)


def test_ids_say_what_the_title_does_not(made, planted_shop, tmp_path):
    assert made.summary["metrics"]["recall@1"] > 0.9
    assert recall(planted_shop, tmp_path / "none", content="none") < 0.4, "titles name the thing alone: one of six"
    assert recall(planted_shop, tmp_path / "dense", content="dense") > 0.9


def test_a_new_item_is_found_by_the_codes_it_is_assigned(made, planted_shop):
    stored = np.load(made.file(train.VECTORS))
    retriever = LearnedRetriever.load(made.path, index=ExactIndex.build(stored), encoder=Encoder())
    catalogue, known = planted_shop.catalogue, given(planted_shop)
    again = retriever.item_vectors(
        catalogue.item_ids, content=None, title_content=known.title_content, codes=known.item_codes[0].codes
    )
    np.testing.assert_allclose(again, stored, atol=2e-3)
    codes = np.array([[WORDS.index("chair"), WORDS.index("green")]])
    new = retriever.item_vectors([None], content=None, title_content=content_of(["chair"]), codes=codes)
    scores = new @ retriever.request_vectors([Request(query=query) for query in catalogue.queries]).T
    assert catalogue.queries[int(scores.argmax())] == "green chair"
    with pytest.raises(EngineError, match="Give the codes that the quantiser assigns"):
        retriever.item_vectors([None], content=None, title_content=content_of(["chair"]))
    with pytest.raises(EngineError, match="Give title_content"):
        retriever.item_vectors([None], content=None, codes=codes)


def test_what_the_first_epochs_leave_alone_stays_bit_for_bit(planted_shop):
    """Decay does not touch it either."""
    task = RecallTask(config(tasks={}), given(planted_shop))
    before = {name: weight.detach().clone() for name, weight in task.module.named_parameters()}
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2, weight_decay=0.1)
    for index in range(PER_EPOCH + 1):
        batch = task.batch(index)
        assert batch.epoch == index // PER_EPOCH
        optimizer.zero_grad()
        task.losses(batch).total.backward()
        optimizer.step()
        changed = {name.split(".")[0] for name, one in task.module.named_parameters() if not one.equal(before[name])}
        assert changed == {"codes", "tower", "tasks"} | ({"query", "title"} if batch.epoch else set())


def test_targets_are_what_was_chosen_and_what_is_almost_that(planted_shop):
    known = given(planted_shop)
    tasks = {"prefix_negatives": 3, "corrupted_negatives": 2}
    task, again = (RecallTask(config(tasks=tasks), known) for _ in range(2))
    codes, hidden = known.item_codes[0].codes, 0
    for index in range(6):
        batch = task.batch(index)
        found = batch.targets
        torch.testing.assert_close(found, again.batch(index).targets, rtol=0, atol=0)
        own, almost = found.items.codes.numpy(), found.negatives.numpy()
        chosen = set(map(tuple, codes[np.isin(planted_shop.catalogue.item_ids, list(_asked(planted_shop, batch)))]))
        assert set(map(tuple, own)) <= chosen
        assert (almost[:, :3, 0] == own[:, None, 0]).all() and (almost[:, :3, 1] != own[:, None, 1]).all()
        assert ((almost[:, 3:] != own[:, None]).sum(axis=2) == 1).all()
        np.testing.assert_array_equal(found.same, (own[:, None] == own[None]).all(axis=2))
        # Under each query of this shop one item was chosen, so that both masks are one.
        np.testing.assert_array_equal(found.chosen, found.same)
        hidden += int((batch.items.codes[:, 0] < 0).sum())
    assert hidden > 0, "sets of tokens are hidden in training"
    assert (task.features.items(np.arange(30)).codes >= 0).all(), "and never else"


def _asked(shop, batch) -> set[str]:
    """Name the items whose query a batch asks: here each query names its item."""
    content = content_of(shop.catalogue.queries)
    rows = [int(np.abs(content - one.numpy()).sum(axis=1).argmin()) for one in batch.requests.query_content]
    return {"-".join(shop.catalogue.queries[row].split()[::-1]) for row in rows}


def test_what_is_missing_is_told(planted_shop):
    for changes, error, message in (
        ({"item_codes": ()}, ConfigError, "reads semantic IDs, and there are none"),
        ({"title_content": None}, ConfigError, "reads what the encoder makes of titles alone"),
    ):
        with pytest.raises(error, match=message):
            train.check_content(config(), given(planted_shop, **changes))
    few = item_codes(planted_shop.catalogue)
    with pytest.raises(DataError, match=r"codes are \[3, 2\]"):
        RecallTask(config(), given(planted_shop, item_codes=(ItemCodes(few.codes[:3], few.codebooks),)))
