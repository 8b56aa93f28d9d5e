"""Claims, sentences and quoted numbers follow from the results, of composed scenes and of real images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from experiments.all_presets import PRESETS, plan_of
from experiments.answer import figures, picture_rows, sentences
from experiments.claims import Claim, claim_table, claims
from experiments.comparisons import Study, comparisons, load_study, small_data_comparisons
from experiments.presets import TOY, Preset
from experiments.real_presets import REAL_CPU
from experiments.run import RESULTS

KEYS = {"knn": "knn20", "linear": "accuracy"}


def study_of(
    preset: Preset, values: Mapping[tuple[str, str], Sequence[float]], first: int = 0, trainings: Any = None
) -> Study:
    """A study from percent by method and evaluation, from seed `first` on. Evaluations at masks have all of them at once."""
    results: dict[tuple[str, int, str], dict[str, Any]] = {}
    for (method, evaluation), by_seed in values.items():
        for seed, value in enumerate(by_seed, first):
            metrics = {KEYS.get(evaluation, "miou"): value / 100}
            content: dict[str, Any] = {"metrics": metrics, "config": {}, "data": "camvid96-367-233"}
            if evaluation.endswith("-labels"):
                fractions = [10 / 367, 36 / 367, 1.0]
                content["config"] = {"label_fraction": fractions}
                metrics |= {f"miou@{fraction:g}": value / 200 for fraction in fractions[:2]}
            results[method, seed, evaluation] = content
    return Study(preset, list(plan_of(preset).rows()), results, trainings or {})


def merged(*studies: Study) -> Study:
    """One study with the results of all."""
    results = {key: value for study in studies for key, value in study.results.items()}
    return replace(studies[0], results=results)


def pick(lines: Sequence[Claim], text: str) -> Claim:
    (line,) = [line for line in lines if text in line.text]
    return line


@pytest.mark.parametrize(
    ("branch", "verdict"),
    [
        ([54.0, 54.2, 54.1, 53.9, 54.0], "reached"),
        ([54.0, 58.0, 50.5, 56.0, 53.0], "reached (by the mean)"),
        ([52.0, 56.0, 50.0, 54.0, 51.0], "missed (by the mean)"),
        ([51.0, 51.2, 51.1, 50.9, 51.0], "missed"),
        ([54.0, 54.2, 54.1, 53.9], "open"),
    ],
)
def test_the_first_fixed_comparison_is_judged_by_its_mean(branch: list[float], verdict: str) -> None:
    preset = replace(TOY, n_confirmatory_seeds=5, primary="foreground")
    values = {("fresh-fashion-moco-v3-vit-plain", "foreground"): [50.0] * 5}
    values |= {("fresh-fashion-moco-v3-vit-branch", "foreground"): branch}
    lines = claims([study_of(preset, values, first=10)])
    assert pick(lines, "object mIoU ≥ +3").verdict == verdict


def real_study() -> Study:
    """All seeds of the second fixed comparison, and exploratory tables with fewer seeds."""
    fixed = {("camvid-moco-v3-vit-plain", "miou-labels"): [20.0, 21.0, 20.5, 20.0, 20.2]}
    fixed |= {("camvid-moco-v3-vit-branch", "miou-labels"): [24.0, 25.1, 24.4, 24.0, 24.3]}
    fixed |= {("camvid-random-vit", "miou-labels"): [15.0] * 5}
    explored: dict[tuple[str, str], list[float]] = {}
    starts = {"random-vit": 15.0, "scratch-vit": 30.0, "moco-v3-vit-plain": 20.0, "moco-v3-vit-branch": 24.0}
    starts |= {"pixels-vit-alone": 23.9, "dino-vit-plain": 18.0, "dino-vit-branch": 17.0}
    for name, value in starts.items():
        explored["camvid-" + name, "miou-labels"] = [value, value + 0.5]
        explored["camvid-" + name, "patch-knn-labels"] = [value]
        if "dino" not in name:
            explored["camvid-" + name, "ends-labels"] = [50 - value, 50 - value]
    for kind in ("scenes", "fashion", "cifar10", "fashion-mnist"):
        for variant, value in (("plain", 60.0), ("branch", 57.0), ("weight3", 60.2)):
            explored[f"{kind}-moco-v3-vit-{variant}", "knn"] = [value, value + value / 100, value - 0.1]
            if kind in ("scenes", "fashion"):
                dense = {"plain": 50.0, "branch": 53.5, "weight3": 54.0}[variant]
                explored[f"{kind}-moco-v3-vit-{variant}", "foreground"] = [dense, dense + 0.2, dense - 0.1]
    for variant, value in (("plain", 20.0), ("branch", 24.0), ("weight3", 24.0)):
        explored["camvid-moco-v3-vit-" + variant, "miou-labels"] = [value, value + 0.5, value + 0.2]
    return merged(study_of(REAL_CPU, fixed, first=20), study_of(REAL_CPU, explored))


def test_claims_on_real_images() -> None:
    lines = claims([real_study()])
    fixed = [line for line in lines if line.group == "Fixed before it was run"]
    assert [line.text for line in fixed] == [  # 10 masks were not part of the comparison
        "CamVid, MoCo v3 + ViT: linear mIoU above that without the branch",
        "CamVid, MoCo v3 + ViT: linear mIoU ≥ +3",
        "CamVid, MoCo v3 + ViT: linear mIoU, 36 masks above that without the branch",
        "CamVid, MoCo v3 + ViT: linear mIoU, 36 masks ≥ +3",
    ]
    assert fixed[0].measured == "+4.0 [+3.9, +4.1] (5 seeds)"
    assert [line.verdict for line in fixed] == ["reached", "reached", "reached", "missed"]
    ten = pick(lines, "CamVid, MoCo v3 + ViT: few labels")
    assert ten.measured.startswith("linear mIoU, 10 masks +2.0 [+2.0, +2.1] (5 seeds); linear mIoU, 36 masks +2.0")
    assert pick(lines, "CIFAR-10, MoCo v3 + ViT: k-NN").verdict == "missed"
    assert pick(lines, "Default: dense ≥ +3 on 3").verdict == "missed (by the means)"
    assert pick(lines, "Best of 1 other settings, “weight 3”: dense ≥ +3 on 3").verdict == "reached (by the means)"
    assert pick(lines, "RePre above supervised training: linear mIoU, CamVid").measured.startswith("-6.0")
    assert pick(lines, "RePre above random init: UPerNet mIoU, end to end, CamVid").measured == "-9.0 (2 seeds)"
    assert pick(lines, "MoCo v3 + ViT: UPerNet mIoU, end to end ≥ +3").verdict == "open"
    table = claim_table(lines)
    assert table.count("| **Fixed before it was run** | | |") == 1
    assert all(line.count("|") == 4 for line in table.splitlines())


def test_the_answer_on_real_images() -> None:
    study = real_study()
    lines = claims([study])
    texts = sentences([study], [], lines)
    assert "Yes, frozen dense features, in 2 of 2 comparisons fixed before they were run: " in texts["help"]
    assert "linear mIoU on CamVid +4.0 [+3.9, +4.1] (5 seeds) with MoCo v3 + ViT" in texts["help"]
    assert "the largest losses are " in texts["where"] or "the only loss is " in texts["where"]
    assert "supervised training" in texts["where"]
    assert "any start trained end to end" in texts["where"]
    titles = [row.title for row in picture_rows([study], [])]
    assert titles[0] == "CamVid: MoCo v3 + ViT, fixed beforehand"
    assert {"CIFAR-10: MoCo v3 + ViT", "CamVid: DINO + ViT"} <= set(titles)
    numbers = figures([study], [], lines)
    quoted = numbers["real-cpu/fixed/camvid/moco-v3-vit/linear-miou-36-masks"]
    assert quoted.startswith("+2.0 points (95 % interval +2.0 to +2.1, five paired seeds")
    assert numbers["real-cpu/above/pixels-alone/camvid/linear-miou"].startswith("+0.1 points")


def test_a_fixed_comparison_without_a_gain_is_told_first() -> None:
    fixed = {("camvid-moco-v3-vit-plain", "miou-labels"): [20.0, 21.0, 20.5, 20.0, 20.2]}
    fixed |= {("camvid-moco-v3-vit-branch", "miou-labels"): [20.2, 20.9, 20.4, 20.1, 20.1]}
    study = study_of(REAL_CPU, fixed, first=20)
    assert sentences([study], [], claims([study]))["help"].startswith("**Does it help?** Not shown, in 0 of 2 ")
    del fixed["camvid-moco-v3-vit-branch", "miou-labels"][-1]
    unfinished = study_of(REAL_CPU, fixed, first=20)
    assert "is complete yet" in sentences([unfinished], [], [])["help"]
    empty = replace(study, results={})
    assert "is complete yet" in sentences([empty], [], [])["help"]


def test_the_comparison_of_targets_is_judged_by_the_goals_that_were_fixed() -> None:
    values = {
        ("fashion-moco-v3-vit-branch", name): [60.0, 61.0, 60.5, 60.0, 60.2] for name in ("foreground", "knn", "linear")
    }
    for name, change in (("foreground", 3.0), ("knn", -0.2), ("linear", -2.0)):
        old = values["fashion-moco-v3-vit-branch", name]
        values["fashion-moco-v3-vit-patch-norm", name] = [each + change + 0.1 * index for index, each in enumerate(old)]
    verdicts = {line.text: line.verdict for line in claims([study_of(REAL_CPU, values, first=20)])}
    start = "FashionScenes, patch-normalized pixels as target: "
    assert {text.removeprefix(start): verdict for text, verdict in verdicts.items() if text.startswith(start)} == {
        "object mIoU above that with clean pixels": "reached",
        "k-NN above that with clean pixels": "open",
        "k-NN less than 0.5 below that with clean pixels": "reached",
        "linear less than 0.5 below that with clean pixels": "missed",
    }
    del values["fashion-moco-v3-vit-patch-norm", "foreground"][-1]
    lines = claims([study_of(REAL_CPU, values, first=20)])
    assert pick(lines, f"{start}object mIoU").verdict == "open"


def test_the_same_data_at_two_sizes_have_the_preset_in_their_titles() -> None:
    study = real_study()
    other = replace(study, preset=replace(REAL_CPU, name="lease"))
    titles = [row.title for row in picture_rows([study, other], [])]
    assert len(titles) == len(set(titles))
    assert "CamVid (lease): MoCo v3 + ViT, fixed beforehand" in titles


def test_the_first_confirmatory_comparison_is_untouched() -> None:
    study = load_study(RESULTS, PRESETS["cpu"])
    fixed = {(each.start, each.metric): each for each in comparisons(study) if each.is_confirmatory}
    means = {key: round(each.gain.mean, 1) for key, each in fixed.items()}
    assert means == {
        ("MoCo v3 + ViT", "object mIoU"): 5.4, ("MoBY + Swin", "object mIoU"): 6.2, ("MoCo v3 + ViT", "k-NN"): -0.4,
        ("MoBY + Swin", "k-NN"): -0.6, ("MoCo v3 + ViT", "linear"): -0.3, ("MoBY + Swin", "linear"): 0.1,
    }  # fmt: skip
    assert all(each.gain.pairs == 5 for each in fixed.values())


def test_the_costs_are_shares_of_the_encoder() -> None:
    sizes = {"encoder_parameters": 100, "decoder_parameters": 4, "encoder_flops": 200, "decoder_flops": 20}
    trainings = {("fashion-moco-v3-vit-branch", 0): {"costs": sizes}}
    trainings |= {("fashion-moco-v3-vit-plain-as-long", 0): {"costs": sizes, "time_ratio": 1.06}}
    values = {("fashion-moco-v3-vit-plain", "knn"): [50.0], ("fashion-moco-v3-vit-branch", "knn"): [49.0]}
    study = study_of(TOY, values, trainings=trainings)
    lines = claims([study])
    assert pick(lines, "Lightweight").measured == "MoCo v3 + ViT 4%, 10%, 6%"
    cost = sentences([study], [], lines)["cost"]
    assert (
        "6 % more time per step (measured once) and 4 % more parameters with MoCo v3 + ViT; afterwards nothing; k-NN on "
        in cost
    )


def test_the_street_frames_of_the_recipe_count_as_one_seed() -> None:
    found = small_data_comparisons(RESULTS)
    assert [each.metric for each in found] == ["linear mIoU", "linear mIoU, 36 masks"]
    assert all(each.gain.half is None and each.gain.pairs == 1 for each in found)
