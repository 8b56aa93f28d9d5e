"""Settings for training end to end are chosen on held-out labels, with the same candidates for every start."""

from dataclasses import replace
from pathlib import Path

import pytest
from experiments.datasets import ensure_dataset
from experiments.fair_ends import LAYER_DECAYS, LEARNING_RATES, choose, fair_ends
from experiments.measure import random_init_spec
from experiments.presets import Data
from experiments.real_presets import REAL_TOY

from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from tests.experiments.real_copies import write_camvid


@pytest.mark.parametrize("best_lr", LEARNING_RATES)
@pytest.mark.parametrize("best_decay", LAYER_DECAYS)
@pytest.mark.parametrize("longer_is_better", [False, True])
def test_the_best_of_five_trainings_is_chosen(best_lr: float, best_decay: float, longer_is_better: bool) -> None:
    def score(fit: FitConfig) -> float:
        longer = fit.passes > 2
        return (fit.lr == best_lr) + 0.1 * (fit.layer_decay == best_decay) + 0.01 * (longer == longer_is_better)

    chosen, tried = choose(score, images=32, steps=(4, 12))
    assert (chosen.lr, chosen.layer_decay) == (best_lr, best_decay)
    assert chosen.passes == (6 if longer_is_better else 2)  # two steps an epoch
    assert len(tried) == 5
    assert max(row["miou"] for row in tried) == score(chosen)


def test_test_images_and_held_out_images_are_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_camvid(tmp_path, {"train": 12, "val": 0, "test": 2})
    data = Data(kind="camvid", size=32, train=12, val=2)
    dense = ensure_dataset(data, folder=tmp_path / "data", packages=tmp_path, real=tmp_path)
    preset = replace(REAL_TOY, mask_counts=(10,), upernet_width=8)
    calls: list[tuple[list[str], list[str]]] = []
    from experiments import fair_ends as module

    evaluate = module.evaluate

    def noted(name, resolved, config, **options):  # type: ignore[no-untyped-def]
        parts = (spec.removeprefix("pairs:").split(",")[0] for spec in (config.data, config.test))
        train, test = (sorted(path.stem for path in Path(part).iterdir()) for part in parts)
        calls.append((train, test))
        return evaluate(name, resolved, config, **options)

    monkeypatch.setattr(module, "evaluate", noted)
    encoder = replace(REAL_TOY.encoders["vit"], image_size=32)
    result = fair_ends(
        random_init_spec(encoder), dense, preset, seed=3, runtime=RuntimeOptions(device="cpu", workers=0),
        out=tmp_path / "out",
    )  # fmt: skip
    assert set(result["metrics"]) == {f"miou@{10 / 12:g}", "miou"}
    assert [len(train) for train, _ in calls] == [8, 8, 8, 8, 8, 10, 9, 9, 9, 9, 9, 12]
    assert not any(set(train) & set(test) for train, test in calls)
    assert [len(test) for _, test in calls] == [2] * 6 + [3] * 5 + [2]
    assert all(set(details["chosen"]) == {"lr", "layer_decay", "epochs"} for name, details in result["details"].items()
               if name != "weights_norm")  # fmt: skip
