"""What every dataset says of itself."""

from __future__ import annotations

from triptych.data.datasets.base import DatasetConfig
from triptych.foundation.registry import config_class, kinds

PACKAGE = "triptych.data.datasets"


def test_cards_say_whose_behaviour_is_simulated():
    simulated = {}
    for kind in kinds(PACKAGE):
        of_another = {"of": {"kind": "generated_shop"}} if kind == "k_core" else {}
        dataset = config_class(PACKAGE, kind).parse(of_another)
        assert isinstance(dataset, DatasetConfig)
        card = dataset.card()
        assert card.name
        assert card.source
        assert card.licence
        simulated[kind] = card.simulated
    assert [kind for kind, is_simulated in simulated.items() if is_simulated] == ["fashion", "generated_shop", "k_core"]
