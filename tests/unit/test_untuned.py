"""Pretrained text encoders as they are: against `transformers` by hand, and in a run of judged queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.encoders import features, model_files
from triptych.encoders.features import Modality, load_features
from triptych.encoders.pretrained import PretrainedConfig
from triptych.encoders.untuned import UntunedConfig, UntunedText
from triptych.evaluate.records import Role, role_of
from triptych.foundation.errors import ConfigError, EngineError
from triptych.index.backends.exact import ExactIndex
from triptych.recall.base import Request
from triptych.recall.models.dense import Dense
from triptych.recipes import resolve

transformers = pytest.importorskip("transformers")
from tiny_models import MAX_TOKENS, bert, resnet, save  # noqa: E402


def by_hand(folder: Path, texts: list[str]) -> np.ndarray:
    """The mean of the last states over the text's tokens, of length 1."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        with torch.no_grad():
            mean = model(**given).last_hidden_state[0].mean(dim=0)
        rows.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("prefix", ["", "with "])
def test_a_text_is_the_mean_of_its_tokens(tmp_path, prefix):
    folder = save(bert, tmp_path / "bert")
    texts = ["red shirt", "", "a nice black bag with plate and cup and lamp and bowl and teapot", "blue hat"] * 20
    found = UntunedText(folder, prefix=prefix).queries(texts)
    np.testing.assert_allclose(found, by_hand(folder, [prefix + text for text in texts]), atol=2e-2)  # bf16
    assert UntunedText(folder).queries([]).shape == (0, 16)


def test_titles_are_searched_by_cosine_to_the_query(small_shop, tmp_path):
    folder = save(bert, tmp_path / "bert")
    model = model_files.run(PretrainedConfig(name=str(folder)), out=tmp_path / "pretrained")
    catalogue = small_shop.catalogue
    titles, prefixed = (
        load_features(
            features.run(model, modality=Modality.TITLE, catalogue=catalogue, out=tmp_path / "features", prefix=prefix)
        )[:, 0].astype(np.float32)
        for prefix in ("", "a nice ")
    )
    there = [place for place, title in enumerate(catalogue.titles) if title]
    for found, prefix in ((titles, ""), (prefixed, "a nice ")):
        own = found[there] / np.linalg.norm(found[there], axis=1, keepdims=True)
        np.testing.assert_allclose(own, by_hand(folder, [prefix + catalogue.titles[n] for n in there]), atol=2e-2)
    dense = Dense(UntunedText(folder), ExactIndex.build(titles), name="pretrained bert")
    hits = dense.retrieve([Request(query="red shirt")], 5)
    scores = (
        ExactIndex.build(titles).vectors(np.arange(catalogue.num_items)) @ UntunedText(folder).queries(["red shirt"])[0]
    )
    np.testing.assert_allclose(hits.scores[0], np.sort(scores)[::-1][:5], rtol=1e-3)
    with pytest.raises(EngineError, match="reads no photos"):
        dense.retrieve([Request(photo=np.zeros((24, 24, 3), np.uint8))], 5)


def test_its_row_is_of_nothing_that_was_trained_here():
    assert role_of("pretrained minilm") is Role.BASELINE
    assert role_of("pretraining 1") is Role.MODEL


@pytest.mark.parametrize("recipe", ["homedepot", "demo"])
def test_recipes_with_queries_take_them(recipe):
    config = resolve(recipe, settings=('untuned={"minilm":{"name":"models/minilm","query_prefix":"query: "}}',)).config
    assert config.untuned == {"minilm": UntunedConfig(name="models/minilm", query_prefix="query: ")}


def test_a_recipe_without_queries_refuses_them():
    with pytest.raises(ConfigError, match="untuned is asked by words, and this recipe has no queries"):
        resolve("movielens", settings=('untuned={"a":{"name":"b"}}',))


def test_a_model_of_photos_is_told_before_the_run(tmp_path):
    from triptych.recipes.pipeline import run_pipeline

    save(resnet, tmp_path / "resnet")
    made = resolve("demo", settings=(f'untuned={{"a":{{"name":"{tmp_path / "resnet"}"}}}}',))
    with pytest.raises(ConfigError, match=r"untuned\.a: '.*resnet' reads no texts"):
        run_pipeline(made.config, base=tmp_path, out=tmp_path / "run")
    assert not (tmp_path / "run" / "catalogue").exists()
