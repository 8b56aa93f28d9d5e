"""k-NN during pre-training gives the numbers of `repre eval knn`."""

from pathlib import Path

import pytest
import torch

from repre.data.labels.classes import open_labeled
from repre.data.views.view_recipes import ViewsConfig
from repre.evaluation.classification import knn_probe
from repre.evaluation.classification.knn import KNNConfig, run
from repre.evaluation.classification.knn_probe import KNNProbe
from repre.evaluation.features import eval_transform
from tests.evaluation.tiny_eval import on_cpu, tiny_resolved


def test_the_probe_is_the_evaluation(tmp_path: Path) -> None:
    resolved = tiny_resolved()
    encoder = resolved.build().train()
    probe = KNNProbe(open_labeled("scenes:200:16"), eval_transform(resolved, encoder), batch=64)
    expected = run(resolved, KNNConfig(data="scenes:200:16", baselines=True, runtime=on_cpu(tmp_path))).metrics
    assert probe(encoder, step=3) == {"knn": expected["knn20"]}
    assert encoder.training
    names = ("raw pixels", "color histogram", "majority class")
    assert probe.baselines() == {name: expected[name.replace(" ", "_")] for name in names}


def test_the_probe_follows_the_weights() -> None:
    resolved = tiny_resolved()
    encoder = resolved.build()
    probe = KNNProbe(open_labeled("scenes:200:16"), eval_transform(resolved, encoder))
    before = probe(encoder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert probe(encoder) != before


@pytest.mark.parametrize(("spec", "side"), [("scenes", 64), ("scenes:10:32", 32)])
def test_scenes_have_the_size_of_the_training_and_held_out_ones_test(
    spec: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn_probe, "PROBE_SCENES", 20)
    probe = KNNProbe.for_scenes(spec, ViewsConfig(size=16))
    assert probe.splits.train.load(0).shape == (side, side, 3)
    assert [sum(map(len, views)) for views in probe.views] == [20, 10]
    assert probe.views[0][0].shape[1:] == (3, 16, 16)
    assert probe.splits.test.describe(0) == "scenes:val:0"
