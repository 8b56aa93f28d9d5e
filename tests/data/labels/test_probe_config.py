"""Which settings of probes are refused, alone and beside those of a run."""

from dataclasses import replace
from typing import Any

import pytest

from repre.config import RunConfig, RuntimeConfig, identity
from repre.data.labels.masks import MaskOptions
from repre.data.labels.probe_config import ProbeConfig
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError


def test_metrics_are_those_of_the_labels_that_are_named() -> None:
    assert ProbeConfig().metrics == []
    assert ProbeConfig(segment="pairs:a,b").metrics == ["probe/miou", "probe/patch_knn"]
    assert ProbeConfig(knn="a", linear="b").metrics == ["probe/knn", "probe/linear"]


def run_config(*, best: str = "rankme", size: Any = 64, **probe: Any) -> RunConfig:
    runtime = RuntimeConfig(eval_every_epochs=4, best_metric=best)
    return RunConfig(probe=ProbeConfig(**probe), runtime=runtime, views=ViewsConfig(size=size))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": 1}, "probe.images must be at least 2"),
        ({"every_epochs": 0}, "probe.every_epochs must be at least 1"),
        ({"every_epochs": 6}, "--runtime.eval-every-epochs 6"),
        ({"best": "probe/miou"}, r"--probe.segment LABELS \(this run has no probe\)"),
        ({"best": "probe/miou", "knn": "a"}, r"--probe.segment LABELS \(probes of this run: probe/knn\)"),
        ({"best": "probe/iou", "knn": "a"}, "there are probe/knn, probe/linear, probe/miou"),
        ({"segment": "pairs:a,b", "size": (64, 96)}, "64 x 96 pixels"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_config(**settings)


def test_probes_are_not_part_of_a_runs_identity() -> None:
    plain = run_config()
    probed = run_config(segment="pairs:a,b", every_epochs=8, masks=MaskOptions(ignore_label=(3, "sky")))
    assert identity(plain) == identity(probed)
    assert replace(probed, probe=ProbeConfig()) == plain
