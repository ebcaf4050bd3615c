"""Learning rates by hand."""

from __future__ import annotations

import math

import pytest

from triptych.foundation.errors import ConfigError
from triptych.training.loop import LoopConfig


def test_cosine():
    config = LoopConfig(steps=110, warmup_steps=10, learning_rate=2.0)
    assert config.learning_rate_at(0) == pytest.approx(0.2)
    assert config.learning_rate_at(4) == pytest.approx(1.0)
    assert config.learning_rate_at(10) == pytest.approx(2.0)
    assert config.learning_rate_at(35) == pytest.approx(1 + math.cos(math.pi / 4))
    assert config.learning_rate_at(60) == pytest.approx(1.0)
    assert config.learning_rate_at(110) == pytest.approx(0.0)


def test_wsd():
    config = LoopConfig(steps=100, warmup_steps=10, learning_rate=1.0, schedule="wsd", decay_rate=0.2)
    assert config.learning_rate_at(1) == pytest.approx(0.2)
    assert config.learning_rate_at(9) == config.learning_rate_at(50) == config.learning_rate_at(80) == 1.0
    assert config.learning_rate_at(90) == pytest.approx(0.05 + 0.95 / 2)
    assert config.learning_rate_at(100) == pytest.approx(0.05)
    default = LoopConfig(steps=100, warmup_steps=0, learning_rate=1.0, schedule="wsd")
    assert default.learning_rate_at(70) == 1.0
    assert default.learning_rate_at(71) < 1.0


def test_no_warmup():
    assert LoopConfig(steps=10, warmup_steps=0, learning_rate=3.0).learning_rate_at(0) == 3.0


def test_decay_rate_without_effect_is_refused():
    with pytest.raises(ConfigError, match="decay_rate has no effect with schedule = 'cosine'"):
        LoopConfig.parse({"decay_rate": 0.2})
