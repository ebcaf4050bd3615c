"""FREEDOM, LATTICE and EM3 against their equations, worked out with dense matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from triptych.foundation.errors import ConfigError
from triptych.losses.bpr import bpr
from triptych.losses.content_id import Sides, content_id
from triptych.nn.graphs import along
from triptych.recall.config import RecallTrainConfig
from triptych.recall.learned import ItemFeatures, RequestFeatures, Sizes, Step, load_model
from triptych.recall.models.em3 import Em3Config
from triptych.recall.models.freedom import FreedomConfig
from triptych.recall.models.lattice import LatticeConfig

NUM_USERS, NUM_ITEMS, NEIGHBOURS, DIM = 6, 9, 3, 4
EDGES = torch.tensor([[1, 1, 2, 3, 3, 3, 5, 4, 4, 2], [1, 2, 2, 4, 5, 8, 8, 3, 6, 7]])
DIMS = {"image": 5, "text": 3}
SIZES = Sizes(1, NUM_ITEMS, 0, 0, num_users=NUM_USERS, num_edges=EDGES.shape[1], modalities=tuple(DIMS.items()))
BABY = Sizes(1, 7_050, 0, 0, num_users=19_445, modalities=(("image", 4_096), ("text", 384)))
SPORTS = BABY._replace(num_items=18_357, num_users=35_598)
ASKED, ITEMS = torch.tensor([3, 0, 5]), torch.tensor([1, 4, 0, 8])
CONFIGS = {
    "freedom": FreedomConfig(dim=DIM, neighbours=NEIGHBOURS),
    "lattice": LatticeConfig(dim=DIM, neighbours=NEIGHBOURS, mapped_dim=6, frozen_rate=0.6),
    "em3": Em3Config(dim=DIM, neighbours=NEIGHBOURS, heads=2),
}


def modalities() -> dict[str, torch.Tensor]:
    """Random vectors; of row 0 nothing is known, item 4 has no image."""
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(NUM_ITEMS, dim, generator=generator) for name, dim in DIMS.items()}
    found["image"][[0, 4]] = torch.nan
    found["text"][0] = torch.nan
    return found


def made(config, *, seed: int = 0):
    model = config.build(SIZES, seed=seed)
    model.connect(*EDGES)
    model.describe(modalities())
    return model


def step_of(*, epoch: int = 0, batch_index: int = 0, chosen=(1, 4, 8)) -> Step:
    requests = RequestFeatures(torch.zeros(len(ASKED), dtype=torch.int64), None, user_ids=ASKED)
    return Step(requests, ItemFeatures(ITEMS, None), torch.tensor(chosen), batch_index, epoch)


def count(model) -> int:
    return sum(weight.numel() for weight in model.parameters())


def bipartite(edges: torch.Tensor) -> torch.Tensor:
    dense = torch.zeros(NUM_USERS + NUM_ITEMS, NUM_USERS + NUM_ITEMS)
    for user, item in edges.T.tolist():
        dense[user, NUM_USERS + item] = dense[NUM_USERS + item, user] = 1
    degree = dense.sum(dim=1).clamp(min=1)
    return dense / (degree[:, None] * degree).sqrt()


def lightgcn(users: torch.Tensor, items: torch.Tensor, edges: torch.Tensor = EDGES) -> tuple[torch.Tensor, ...]:
    normal, first = bipartite(edges), torch.cat([users, items])
    mean = (first + normal @ first + normal @ (normal @ first)) / 3
    return mean[:NUM_USERS], mean[NUM_USERS:]


def nearest_graph(vectors: torch.Tensor, *, by_similarity: bool) -> torch.Tensor:
    """Dense kNN graph of an item's nearest by cosine, itself among them; symmetric normalisation by row sums."""
    dense, known = torch.zeros(NUM_ITEMS, NUM_ITEMS), (~vectors.isnan().any(dim=1)).nonzero().flatten().tolist()
    for item in known:
        cosines = {other: functional.cosine_similarity(vectors[item], vectors[other], dim=0) for other in known}
        for other in sorted(cosines, key=lambda other: -float(cosines[other].detach()))[:NEIGHBOURS]:
            dense[item, other] = cosines[other].clamp(min=0) if by_similarity else 1.0
    degree = dense.sum(dim=1)
    scale = torch.where(degree > 0, degree, torch.inf).rsqrt()
    return scale[:, None] * dense * scale


def frozen_graph(weights=(0.1, 0.9)) -> torch.Tensor:
    return sum(
        weight * nearest_graph(vectors, by_similarity=False)
        for weight, vectors in zip(weights, modalities().values(), strict=True)
    )


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize(("sizes", "trained"), [(BABY, 2_011_840), (SPORTS, 3_769_280)], ids=["baby", "sports"])
def test_em3_has_the_published_parameters(sizes, trained, queries):
    assert count(Em3Config(queries=queries).build(sizes, seed=0)) == trained + 4_160 * (queries - 1)


def test_the_others_have_tables_and_maps():
    tables, maps = 64 * (19_445 + 7_050), 64 * (4_096 + 1 + 384 + 1)
    assert count(FreedomConfig().build(BABY, seed=0)) == tables + maps
    assert count(LatticeConfig().build(BABY, seed=0)) == tables + maps + 2  # and a share of each modality


def test_tables_begin_xavier_uniform():
    model = FreedomConfig().build(BABY, seed=0)
    for table in (model.users, model.items):
        bound = math.sqrt(6 / sum(table.shape))
        assert table.abs().max().item() == pytest.approx(bound, rel=1e-3)
        assert table.std().item() == pytest.approx(bound / math.sqrt(3), rel=1e-2)


@pytest.mark.parametrize("item_layers", [1, 2])
def test_freedom_is_its_equations(item_layers):
    model = made(CONFIGS["freedom"].model_copy(update={"item_layers": item_layers})).eval()
    users, items = lightgcn(model.users, model.items)
    graph = torch.linalg.matrix_power(frozen_graph(), item_layers)
    found = model.propagated(None)
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items + graph @ model.items)


def test_every_edge_of_the_frozen_graph_is_a_share_of_one():
    """With k neighbours each, an edge of a modality weighs 1/k, whoever the two are."""
    weights = made(CONFIGS["freedom"]).neighbour_weights[1:]
    assert set(weights.mul(NEIGHBOURS).mul(10).round().flatten().tolist()) == {0.0, 1.0, 9.0}
    assert (weights[3] == 0).sum() == NEIGHBOURS  # item 4 has no image


def test_lattice_is_its_equations():
    model = made(CONFIGS["lattice"]).eval()
    with torch.no_grad():
        model.shares.copy_(torch.tensor([0.3, -0.4]))
    shares, graph = torch.softmax(model.shares, dim=0), 0.0
    for share, (vectors, project) in zip(shares, zip(modalities().values(), model.maps, strict=True), strict=True):
        own, mapped = (nearest_graph(kind, by_similarity=True) for kind in (vectors, project(vectors)))
        graph = graph + share * (0.6 * own + 0.4 * mapped)
    users, items = lightgcn(model.users, model.items)
    found = model.propagated(None)
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items + functional.normalize(graph @ model.items, dim=1))
    found.items.square().sum().backward()
    assert all((weight.grad != 0).any() for weight in (model.shares, *(layer.weight for layer in model.maps)))


def test_lattice_finds_neighbours_once_an_epoch_and_weighs_them_at_every_step():
    model = made(CONFIGS["lattice"]).train()
    first = model.propagated(step_of(epoch=0)).items.detach()
    rows = model.mapped_rows_image.clone()
    with torch.no_grad():
        for layer in model.maps:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(5)))
    same_epoch = model.propagated(step_of(epoch=0)).items.detach()
    assert torch.equal(model.mapped_rows_image, rows)
    assert not torch.allclose(same_epoch, first)
    model.propagated(step_of(epoch=1))
    assert not torch.equal(model.mapped_rows_image, rows)


def test_a_lattice_that_is_resumed_within_an_epoch_goes_on_with_its_neighbours():
    model = made(CONFIGS["lattice"]).train()
    model.propagated(step_of(epoch=2))
    with torch.no_grad():
        for layer in model.maps:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(5)))
    resumed, anew = (made(CONFIGS["lattice"], seed=1).train() for _ in range(2))
    for other in (resumed, anew):
        other.load_state_dict(model.state_dict())
    expected = model.propagated(step_of(epoch=2)).items
    assert torch.equal(resumed.propagated(step_of(epoch=2)).items, expected)
    assert not torch.allclose(anew.propagated(step_of(epoch=3)).items, expected)


@pytest.mark.parametrize("paper_compat", [False, True])
@pytest.mark.parametrize("item_layers", [1, 2])
def test_em3_is_its_equations(item_layers, paper_compat):
    config = CONFIGS["em3"].model_copy(update={"item_layers": item_layers, "paper_compat": paper_compat})
    model = made(config).eval()
    by_id, content = lightgcn(model.users, model.items), model.content()
    by_content = lightgcn(torch.zeros(NUM_USERS, DIM), content)
    graph = torch.linalg.matrix_power(frozen_graph(), item_layers)
    content_graph = frozen_graph() if paper_compat else graph  # the published loop passes content along once
    found = model.propagated(None)
    assert found.users.shape[1] == model.vector_dim == 2 * DIM
    torch.testing.assert_close(found.users, torch.cat([by_id[0], by_content[0]], dim=1))
    expected = torch.cat([by_id[1] + graph @ model.items, by_content[1] + content_graph @ content], dim=1)
    torch.testing.assert_close(found.items, expected)


def test_content_is_what_the_q_former_makes_of_what_an_item_has():
    model = made(CONFIGS["em3"]).eval()
    before = model.content().detach()
    changed = modalities()
    changed["image"][2] += 1.0
    model.describe(changed)
    assert (model.content() != before).any(dim=1).nonzero().flatten().tolist() == [2]
    assert before.isfinite().all()


@pytest.mark.parametrize("kind", ["freedom", "em3"])
def test_each_epoch_keeps_its_share_of_the_edges(kind):
    model = made(CONFIGS[kind].model_copy(update={"dropped_edge_rate": 0.55})).train()
    every = torch.eye(NUM_USERS + NUM_ITEMS)
    kept = [along(model.graph(step_of(epoch=epoch)), every) for epoch in (0, 1, 2, 0)]
    assert all(int((graph > 0).sum()) == 2 * 4 for graph in kept)  # four of ten edges, both ways
    assert torch.equal(kept[0], kept[3])
    assert not torch.equal(kept[0], kept[1])
    for graph in kept:
        users, items = (graph[:NUM_USERS, NUM_USERS:] > 0).nonzero().T
        torch.testing.assert_close(graph, bipartite(torch.stack([users, items])))  # normalised anew
        assert {(u, i) for u, i in zip(users.tolist(), items.tolist(), strict=True)} <= set(
            map(tuple, EDGES.T.tolist())
        )
    torch.testing.assert_close(along(model.graph(None), every), bipartite(EDGES))
    assert not torch.equal(along(made(model.config, seed=1).train().graph(step_of()), every), kept[0])


def test_freedoms_views_are_projections_of_each_modality():
    model = made(CONFIGS["freedom"]).train()
    encoded = model.encode(step_of())
    assert [(view.name, view.weight) for view in encoded.views] == [("image", 1e-3), ("text", 1e-3)]
    for view, layer, vectors in zip(encoded.views, model.projections, modalities().values(), strict=True):
        assert view.requests is encoded.requests
        torch.testing.assert_close(view.items, layer(vectors[ITEMS].nan_to_num(nan=0.0)))
    assert made(FreedomConfig(dim=DIM, modality_loss_weight=0)).encode(step_of()).views == ()


def test_em3s_contrast_is_over_what_the_batch_chose_or_all():
    """With two items chosen, each is the other's only negative."""
    model = made(CONFIGS["em3"]).eval()
    items = model.propagated(step_of()).items
    by_id, by_content = items[[4, 8]].split(DIM, dim=1)
    sides = Sides(model.contrast_heads["content"](by_content), model.contrast_heads["id"](by_id), torch.arange(2))
    expected = content_id(sides, drawn=torch.tensor([[1] * 16, [0] * 16]), temperature=0.5).total
    (term,) = model.encode(step_of(chosen=(4, 8))).terms
    assert term.weight == 1e-3
    torch.testing.assert_close(term.loss.total, expected)
    whole = made(Em3Config(dim=DIM, neighbours=NEIGHBOURS, heads=2, paper_compat=True)).eval()
    torch.testing.assert_close(
        whole.encode(step_of(chosen=(4, 8))).terms[0].loss.total, whole.encode(step_of(chosen=(1,))).terms[0].loss.total
    )
    term.loss.total.backward()
    assert (model.items.grad != 0).any()
    assert all((weight.grad != 0).any() for weight in (model.fusion.queries, model.contrast_heads["id"].weight))


def test_em3s_contrast_knows_how_many_chose_an_item():
    model = made(CONFIGS["em3"].model_copy(update={"contrast_log_q": True, "contrast_min_count": 2})).eval()
    rows = torch.arange(1, SIZES.num_items)
    chose = [int((model.edges[1] == row).sum()) for row in rows]
    log_q, trusted = model._counted(rows)
    expected = [math.log(1 - (1 - count / sum(chose)) ** len(rows)) for count in chose if count]
    assert log_q[torch.tensor(chose) > 0].tolist() == pytest.approx(expected, rel=1e-4)
    assert trusted.tolist() == [count >= 2 for count in chose] and 0 < sum(trusted.tolist()) < len(chose)
    assert torch.isfinite(log_q).all()
    assert not {"contrast_log_q", "contrast_min_count"} & set(
        Em3Config().dump()
    )  # models trained before keep their ids


@pytest.mark.parametrize("settings", [{}, {"contrast_log_q": True}, {"contrast_min_count": 2}], ids=str)
def test_processes_share_the_contrast_out(settings):
    model = made(CONFIGS["em3"].model_copy(update=settings)).eval()
    step = step_of(chosen=(1, 4, 5, 7, 8))
    whole = model.encode(step).terms[0].loss.total
    shares = [model.encode(step._replace(shard=(place, 2))).terms[0].loss.total for place in range(2)]
    torch.testing.assert_close(sum(shares), whole)


def test_the_contrasts_weight_rises():
    model = made(Em3Config(dim=DIM, heads=2, contrast_warmup_steps=3))
    weights = [model.encode(step_of(batch_index=index)).terms[0].weight for index in range(5)]
    assert weights == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_step_lowers_its_own_loss(kind):
    model = made(CONFIGS[kind]).eval()  # without dropout, so that the same step is asked twice
    step = step_of()

    def loss() -> torch.Tensor:
        encoded = model.encode(step)
        shared = {"positives": None, "request": torch.arange(3), "masked": torch.eye(3, 4, dtype=torch.bool)}

        def contrasted(requests, items):
            return bpr(requests, **{**shared, "positives": items[:3]}, negatives=items, temperature=1.0).total

        total = contrasted(encoded.requests, encoded.items)
        for view in encoded.views:
            total = total + view.weight * contrasted(view.requests, view.items)
        for term in encoded.terms:
            total = total + term.weight * term.loss.total
        return total

    before = loss()
    before.backward()
    assert all(weight.grad is not None and (weight.grad != 0).any() for weight in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    assert loss().item() < before.item()


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_loaded_it_answers_as_it_did(kind, tmp_path):
    model = made(CONFIGS[kind]).eval()
    with torch.no_grad():
        users, items = model.encode_requests(step_of().requests), model.encode_items(ItemFeatures(ITEMS, None))
        assert users.shape == (3, model.vector_dim) and items.shape == (4, model.vector_dim)
        model.save(tmp_path)
        loaded = load_model(tmp_path)
        assert torch.equal(loaded.encode_requests(step_of().requests), users)
        assert torch.equal(loaded.encode_items(ItemFeatures(ITEMS, None)), items)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_it_answers_with_what_it_has_learned_since(kind):
    model = made(CONFIGS[kind]).eval()
    with torch.no_grad():
        before = model.encode_items(ItemFeatures(ITEMS, None)).clone()
        model.train()
        model.items.add_(torch.randn(model.items.shape, generator=torch.Generator().manual_seed(2)))
        assert not torch.allclose(model.eval().encode_items(ItemFeatures(ITEMS, None)), before)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "em3", "dim": 10}, "multiple of heads"),
        ({"kind": "em3", "paper_compat": True, "contrast_log_q": True}, "no effect with paper_compat"),
        ({"kind": "em3", "contrast_weight": 0, "contrast_negatives": 4}, "contrast_negatives has no effect"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        RecallTrainConfig.parse({"model": settings})


@pytest.mark.parametrize("name", ["item_buckets", "id_min_count"])
def test_every_item_has_a_vector_of_its_own(name):
    with pytest.raises(ConfigError, match=f"{name} has no effect with model.kind = 'freedom'"):
        RecallTrainConfig.parse({"model": {"kind": "freedom"}, name: 5})


def test_modalities_must_be_there_and_have_their_weights():
    with pytest.raises(ConfigError, match="there is no modality"):
        FreedomConfig().build(SIZES._replace(modalities=()), seed=0)
    with pytest.raises(ConfigError, match=r"names image, text, and items have audio\. Give each of these a weight"):
        Em3Config().build(SIZES._replace(modalities=(("audio", 4),)), seed=0)
    with pytest.raises(ConfigError, match="'a.b' cannot be a name"):
        LatticeConfig().build(SIZES._replace(modalities=(("a.b", 4),)), seed=0)
