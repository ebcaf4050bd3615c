"""The ranking task: its figures are those of `ranker.measure`, its intervals those of users drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.data.schema import Part
from triptych.evaluate import report
from triptych.evaluate.compare import Column
from triptych.evaluate.orderings import Ordering, judge_ordering
from triptych.evaluate.report import About, read_records, text_tables
from triptych.evaluate.tasks import ranking
from triptych.evaluate.tasks.base import EvaluationConfig
from triptych.evaluate.tasks.ranking import CONSTANT, Scored
from triptych.foundation.errors import DataError
from triptych.metrics.classification import auc, auc_values
from triptych.metrics.significance import bootstrap_means
from triptych.ranker.measure import GroupBy, figures, slices
from triptych.ranker.samples import read_samples

CONFIG = EvaluationConfig(part=Part.VALIDATION, ks=(1, 2), headline_k=2, bootstrap_repeats=2000)


@pytest.fixture(scope="module")
def samples(small_shop):
    """Training and validation; the last day's shop showed nothing that was left."""
    return tuple(read_samples(small_shop.catalogue, places=small_shop.split.part(one)) for one in list(Part)[:2])


@pytest.fixture(scope="module")
def logits(samples):
    _, held_out = samples
    rng = np.random.default_rng(0)
    return [held_out.label + rng.normal(0.8, 1.0, len(held_out.label)) for _ in range(2)]


def evaluated(small_shop, samples, models, *, by=GroupBy.USER):
    train, held_out = samples
    return ranking.compare(
        models, samples=held_out, train=train, catalogue=small_shop.catalogue, by=by, config=CONFIG, main="ranker"
    )


@pytest.fixture(scope="module")
def result(small_shop, samples, logits):
    train, held_out = samples
    popularity = np.bincount(train.item_row[train.label], minlength=small_shop.catalogue.num_items)
    models = {"popularity": Scored([popularity[held_out.item_row]]), "ranker": Scored(logits, are_logits=True)}
    return evaluated(small_shop, samples, models)


def record_of(result, model, metric, slice_name="all"):
    (found,) = [
        one
        for one in result.records
        if not hasattr(one, "baseline") and (one.model, one.metric, one.slice) == (model, metric, slice_name)
    ]
    return found


@pytest.mark.parametrize("by", GroupBy)
def test_figures_are_those_of_the_ranker(small_shop, samples, logits, by):
    train, held_out = samples
    result = evaluated(small_shop, samples, {"ranker": Scored(logits, are_logits=True)}, by=by)
    names = {"auc", "gauc", "log_loss", "calibration_error", "predicted_over_observed"}
    for name, keep in [("all", None), *slices(held_out, train=train, catalogue=small_shop.catalogue)]:
        wanted = [figures(held_out, one, by=by, keep=keep)._asdict() for one in logits]
        if np.isnan(wanted[0]["gauc"]):
            continue
        for metric in names:
            found = record_of(result, "ranker", metric, name)
            np.testing.assert_allclose(found.seed_values, [one[metric] for one in wanted], rtol=1e-9)


def test_the_constant_is_the_rate_of_training(samples, result):
    train, held_out = samples
    rate, label = train.label.mean(), held_out.label
    loss = -np.mean(np.where(label, np.log(rate), np.log1p(-rate)))
    assert record_of(result, CONSTANT, "log_loss").value == pytest.approx(loss)
    assert record_of(result, CONSTANT, "gauc").value == 0.5
    assert not [one for one in result.records if one.model == "popularity" and one.metric == "log_loss"]


def test_gauc_varies_as_users_are_drawn_again(samples, logits, result):
    _, held_out = samples
    values = np.mean([by_user(held_out, scores) for scores in logits], axis=0)
    own = {user: values[held_out.user_row == user] for user in np.unique(held_out.user_row[~np.isnan(values)])}
    rng, drawn = np.random.default_rng(3), []
    for _ in range(2000):
        some = rng.choice(list(own), len(own))
        drawn.append(np.concatenate([own[user] for user in some]).mean())
    found = record_of(result, "ranker", "gauc")
    assert found.value == pytest.approx(np.mean([figures(held_out, one, by=GroupBy.USER).gauc for one in logits]))
    np.testing.assert_allclose([found.low, found.high], np.quantile(drawn, [0.025, 0.975]), atol=0.025)


def test_an_ordering_is_the_paired_record_of_the_task(small_shop, samples, logits):
    """From the table of users alone: each counts as often as he was shown something."""
    models = {"ranker": Scored(logits, are_logits=True), "other": Scored([logits[0][::-1]], are_logits=True)}
    result = evaluated(small_shop, samples, models)
    paired = [one for one in result.records if getattr(one, "baseline", "") == "other" and one.metric == "gauc"]
    assert {one.slice for one in paired} > {"all"}
    for record in paired:
        claim = Ordering("it is better", "ranker", "other", slice=record.slice)
        column = Column("gauc")
        found = judge_ordering(claim, result.per_query, headline=column, config=CONFIG, weighed_by=result.weighed_by)
        told = (found.difference, found.low, found.high)
        np.testing.assert_allclose(told, (record.value, record.low, record.high), rtol=1e-9)
        assert (found.num_queries, found.verdict) == (record.num_queries, record.verdict)


def by_user(samples, scores):
    """The AUC of each sample's user, by a loop over pairs."""
    values = np.full(len(scores), np.nan)
    for user in np.unique(samples.user_row):
        own = samples.user_row == user
        better, worse = scores[own & samples.label], scores[own & ~samples.label]
        if len(better) and len(worse):
            values[own] = np.mean(better[:, None] > worse[None])
    return values


def test_values_of_an_auc_tell_its_mean_and_how_it_varies():
    rng = np.random.default_rng(1)
    labels = rng.random(600) < 0.2
    scores = np.round(labels + rng.normal(size=600), 1)  # with ties
    values = auc_values(labels, scores)
    assert values.mean() == pytest.approx(auc(labels, scores))
    drawn = [rng.integers(600, size=600) for _ in range(500)]
    again = [auc(labels[some], scores[some]) for some in drawn]
    expanded = bootstrap_means(values[:, None], rng=np.random.default_rng(2), repeats=2000)
    assert expanded.std() == pytest.approx(np.std(again), rel=0.12)
    assert np.isnan(auc_values(np.ones(3, bool), np.arange(3.0))).all()


def test_terminal_and_page_show_it(small_shop, result, tmp_path):
    inputs = {"catalogue": small_shop.catalogue.artifact, "split": small_shop.split.artifact}
    artifact = report.run(
        CONFIG,
        catalogue=small_shop.catalogue,
        split=small_shop.split,
        tasks=[lambda: result],
        inputs=inputs,
        out=tmp_path,
        about=About(name="shop"),
    )
    tables = text_tables(read_records(artifact), headline_k=2)
    title, (constant, popularity, ranker) = tables[0].title, tables[0].rows
    assert title.startswith("ranking by user, validation") and title.endswith("over users]")
    assert list(ranker) == ["model", "GAUC", "AUC", "log loss", "ECE", "pred/obs"]
    assert constant["log loss"] == f"{record_of(result, CONSTANT, 'log_loss').value:.4f}"
    assert popularity["log loss"] == "–"
    assert ranker["GAUC"].startswith(f"{100 * record_of(result, 'ranker', 'gauc').value:.1f} [")
    html = artifact.file("report.html").read_text(encoding="utf-8")
    assert "Log loss" in html and "@None" not in html
    assert "ranker − popularity" in {row["model"] for table in tables for row in table.rows if "verdict" in row}


def test_what_was_all_chosen_is_refused(small_shop, samples):
    everything = read_samples(small_shop.catalogue, places=small_shop.split.test)
    with pytest.raises(DataError, match="all chosen"):
        evaluated(small_shop, (samples[0], everything), {"ranker": Scored([np.zeros(len(everything.label))])})
