"""Goals and claims follow from the tables."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.claims import summary
from experiments.plan import Plan
from experiments.presets import TOY
from experiments.results_store import TRAINING, ResultsStore


def test_goals_and_claims_follow_from_the_tables(tmp_path: Path) -> None:
    preset = replace(TOY, n_seeds=2)
    results: dict[tuple[str, int, str], dict[str, Any]] = {}
    gains = {("moco-v3", "vit"): (0.02, 0.06), ("dino", "vit"): (0.01, 0.01), ("moby", "swin"): (0.07, 0.09)}
    for (framework, encoder), by_seed in gains.items():
        for seed, gain in enumerate(by_seed):
            for variant, value in (("plain", 0.5), ("branch", 0.5 + gain)):
                method = f"fashion-{framework}-{encoder}-{variant}"
                results[method, seed, "miou"] = {"metrics": {"miou": value}}
                results[method, seed, "knn"] = {"metrics": {"knn20": 1 - value}}
    results["fashion-random-vit", 0, "miou"] = {"metrics": {"miou": 0.3}}
    record = {"costs": {"encoder_parameters": 100, "decoder_parameters": 4, "encoder_flops": 200, "decoder_flops": 20}}
    for name, content in (("branch", record), ("plain-as-long", record | {"time_ratio": 1.06})):
        ResultsStore(tmp_path / "toy").put(f"fashion-moby-swin-{name}", 0, TRAINING, content)

    text = summary(preset, Plan(preset).rows(), results, tmp_path)
    assert "| linear mIoU, at least +3 | box AP, at least +2 | k-NN, at least -0.5 | linear, at least -0.5 |" in text
    half = 12.706 * 2  # two seeds, 2 points on either side of their mean
    assert f"| moco-v3 + vit, exploratory | +4.0 [{4 - half:+.1f}, {4 + half:+.1f}] (2): open | – | -4.0" in text
    assert "| dino + vit, exploratory | (+1.0) (2): open | – | (-1.0) (2): open | – |" in text
    assert "| moby + vit, exploratory | – | – | – | – |" in text
    mean, spread = 13 / 3, (((4 - 13 / 3) ** 2 + (1 - 13 / 3) ** 2 + (8 - 13 / 3) ** 2) / 2) ** 0.5
    half = 4.303 * spread / 3**0.5
    assert f"interval over pairs | {mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}] (3): open |" in text
    assert "higher with the branch in 3 of 3 pairs, by 3 points or more in 2" in text
    assert "moby + swin 4%, 10%, +6%." in text
    assert "last level only not measured" in text
    assert "| random init | (-22.0) (1) |" in text

    empty = summary(preset, Plan(preset).rows(), {}, tmp_path / "none")
    assert empty.count("Not measured yet.") == 3
