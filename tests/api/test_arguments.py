"""Settings from Python are checked like those of a file."""

import re
from pathlib import Path
from typing import Any

import pytest

from repre.api.arguments import as_list, build_config
from repre.data.scenes import ScenesConfig
from repre.errors import UserError
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.options import RuntimeOptions


@pytest.mark.parametrize("values", ["a", Path("a"), ["a"], ("a", Path("b")), []])
def test_one_or_more_values(values: Any) -> None:
    assert as_list(values) == ([values] if isinstance(values, str | Path) else list(values))


def test_settings_replace_those_of_the_config() -> None:
    assert build_config(KNNConfig, None, {}, source="test") == KNNConfig()
    config = KNNConfig(k=(5,), temperature=0.1, runtime=RuntimeOptions(cache=Path("cache")))
    changed = build_config(KNNConfig, config, {"k": [7, 9]}, source="test")
    assert changed == KNNConfig(k=(7, 9), temperature=0.1, runtime=RuntimeOptions(cache=Path("cache")))
    for runtime in (RuntimeOptions(workers=0), {"workers": 0}):
        assert build_config(KNNConfig, {"runtime": runtime}, {}, source="test").runtime == RuntimeOptions(workers=0)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (None, {"temperatur": 0.1}, "test: temperatur: no such setting; did you mean 'temperature'?"),
        (None, {"k": "many"}, "test: k must be"),
        (None, {"k": (0,)}, "k must"),
        (None, {"runtime": {"batches": 3}}, "runtime.batches"),
        (ScenesConfig(), {}, "test: config must be a KNNConfig, not ScenesConfig"),
    ],
)
def test_mistakes_are_user_errors(config: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build_config(KNNConfig, config, settings, source="test")
