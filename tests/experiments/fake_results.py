"""Results of the toy preset's confirmatory ViT pair, without measuring."""

from typing import Any

from experiments.methods import FIRST_CONFIRMATORY_SEED, Row
from experiments.plan import Plan
from experiments.presets import TOY

METRIC_KEYS = {"foreground": "miou", "miou": "miou", "knn": "knn20", "linear": "accuracy"}


def vit_rows() -> list[Row]:
    """The rows of the pair and of random init."""
    return [row for row in Plan(TOY).confirmatory() if "vit" in row.label]


def fake_results(values: dict[str, dict[str, list[float]]]) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Builds results from the main metric by evaluation, variant (plain, branch) and seed."""
    return {
        (f"fresh-fashion-moco-v3-vit-{variant}", FIRST_CONFIRMATORY_SEED + index, evaluation): {
            "metrics": {METRIC_KEYS[evaluation]: value}
        }
        for evaluation, variants in values.items()
        for variant, by_seed in variants.items()
        for index, value in enumerate(by_seed)
    }
