"""The plan at every size: unique names, pairs that differ in the branch only, an order that leaves complete pairs."""

from dataclasses import replace
from pathlib import Path

import pytest
from experiments.all_presets import PRESETS
from experiments.analysis import METRICS
from experiments.measure import evaluation_configs
from experiments.methods import COST_TIERS, FIRST_CONFIRMATORY_SEED, Method, tasks
from experiments.plan import CONFIRMATORY, VIT_LEVELS, Plan
from experiments.presets import TOY

from repre.config import RunConfig
from repre.models.encoder import Encoder

SCENES = [name for name, preset in PRESETS.items() if preset.plan == "scenes"]


@pytest.mark.parametrize("name", SCENES)
def test_a_name_is_one_method_and_pairs_differ_in_the_branch_only(name: str) -> None:
    plan = Plan(PRESETS[name])
    rows = plan.rows()
    methods: dict[str, Method] = {}
    for row in rows:
        assert methods.setdefault(row.method.name, row.method) == row.method, row.method.name
        labels = {other.label for other in rows if other.table == row.table}
        assert row.baseline is None or row.baseline in labels - {row.label}
    for framework, encoder in CONFIRMATORY:
        plain, branch = (plan.pretrained(framework, encoder, variant).config for variant in ("plain", "branch"))
        assert (plain.reconstruction.weight, branch.reconstruction.weight) == (0.0, RunConfig().reconstruction.weight)
        assert replace(plain, reconstruction=branch.reconstruction) == branch


@pytest.mark.parametrize("name", SCENES)
def test_every_evaluation_has_a_config_a_tier_and_metrics(name: str) -> None:
    preset = PRESETS[name]
    evaluations = {evaluation for row in Plan(preset).rows() for evaluation in row.evaluations}
    configs = evaluation_configs(preset, dense=Path(), single=Path())
    assert evaluations <= (configs.keys() | {"objects", "gradients"}) & COST_TIERS.keys()
    assert evaluations - {"objects"} <= METRICS.keys()
    assert f"{preset.primary}-labels" in evaluations
    assert ("foreground-detect" in evaluations) == (preset.primary == "foreground")


def test_an_early_stop_leaves_complete_pairs() -> None:
    confirmatory = [task for task in tasks(Plan(TOY).rows()) if task.table == "confirmatory"]
    order = [(COST_TIERS[task.evaluation], task.seed) for task in confirmatory]
    assert order == sorted(order)
    first = list(dict.fromkeys(task.method.name for task in confirmatory if task.seed == FIRST_CONFIRMATORY_SEED))
    names = (
        "moco-v3-vit-plain",
        "moco-v3-vit-branch",
        "moby-swin-plain",
        "moby-swin-branch",
        "random-vit",
        "random-swin",
    )
    assert first == [f"fresh-fashion-{name}" for name in names]
    assert len(confirmatory) == len({(task.method.name, task.seed, task.evaluation) for task in confirmatory})


@pytest.mark.parametrize("name", SCENES)
def test_confirmatory_and_exploratory_rows_share_no_method_seed_or_scenes(name: str) -> None:
    rows = Plan(PRESETS[name]).rows()
    confirmatory = [row for row in rows if row.table == "confirmatory"]
    exploratory = [row for row in rows if row.table != "confirmatory"]
    assert not {row.method.name for row in confirmatory} & {row.method.name for row in exploratory}
    assert not {seed for row in confirmatory for seed in row.seeds} & {
        seed for row in exploratory for seed in row.seeds
    }
    assert not {row.method.dense for row in confirmatory} & {row.method.dense for row in exploratory}


@pytest.mark.parametrize("name", PRESETS)
def test_encoders_accept_the_sizes_of_their_preset(name: str) -> None:
    preset = PRESETS[name]
    for config in preset.encoders.values():
        encoder = Encoder(replace(config, image_size=preset.size))
        encoder.check_size(preset.local_size, preset.local_size)
        assert preset.size % preset.mask_patch == 0
    vit = Encoder(replace(preset.encoders["vit"], image_size=preset.size))
    assert len(vit.out_indices) == VIT_LEVELS
