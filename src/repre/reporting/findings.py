"""Collects the evidence for and against learning; each finding is a sentence with its numbers.

Labeled evidence comes first (probes before and after, gains over random init, baselines), then what needs no labels:
collapse, losses, patch correspondence, reconstruction. A falling loss alone does not show useful features.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from repre.errors import counted
from repre.evaluation.gains import describe_gain
from repre.reporting import next_steps
from repre.reporting.evaluated_weights import is_about_last
from repre.reporting.measurements import images_tested, measured_by, probe_images
from repre.reporting.run_data import Row, RunData, finite_number
from repre.reporting.titles import evaluation_title, metric_title, result_is_share, result_title
from repre.training.failure_record import NextStep

Kind = Literal["good", "bad", "limit", "unknown", "note"]
"""good, bad: evidence for and against learning; limit: what held it back; unknown: not enough data; note: information."""
PROBE = re.compile(r"(probe/)?(knn|miou|linear|patch_knn)\w*")
"""Names of the metrics of labeled probes."""
PROBE_IMAGES = 1000
"""Number of test images that a probe is assumed to have where nothing says it; the k-NN on the scenes has as many."""
MIN_CORRESPONDENCE_CHANGE = 0.01
"""Smallest change of the share of matched patches that counts; there are thousands of patches."""
MIN_LOSS_CHANGE = 0.02
"""Smallest change of a loss that counts, relative to it."""
COLLAPSED_STD, COLLAPSED_RANK = 0.05, 1.5
"""Below these, all images look the same to the encoder (a healthy spread is 1; an effective rank of 1 is one direction)."""


@dataclass(frozen=True)
class Finding:
    """One piece of evidence: its kind, a short title, a sentence with its numbers, and what to do about it."""

    kind: Kind
    title: str
    text: str
    next: NextStep | None = None
    """Every finding against learning and every limit has one."""
    about: str = ""
    """What a finding with labels measured: knn, linear, miou; the same for probes and evaluations."""
    images: int | None = None
    """Test images of that measurement."""


def probes(run: RunData) -> list[Finding]:
    """Compares labeled probes at the first and the last validation."""
    findings = []
    names = dict.fromkeys(name for row in run.validations for name in row if PROBE.fullmatch(name))
    for name in names:
        steps, values = run.series(name, validations=True)
        if len(values) < 2:
            continue
        title, change = metric_title(name), values[-1] - values[0]
        kind: Kind
        advice: NextStep | None
        start = f"at step {steps[0]:.0f}"
        if steps[0] == 0:
            start = "at the start" if run.config.get("start_from") else "before training"
        numbers = f"from {values[0]:.1%} {start} to {values[-1]:.1%} at step {steps[-1]:.0f}"
        about, images = name.removeprefix("probe/"), probe_images(run, name)
        if abs(change) <= sampling_noise(values[0], values[-1], images or PROBE_IMAGES):
            count = f"{images} test images" if images else "a number of test images that is not known"
            text = f"{title} went {numbers}. With {count}, sampling noise can explain this."
            kind, said, advice = "unknown", "barely changed", next_steps.measure(run, probe=name)
        elif change > 0:
            kind, said, advice, text = "good", "rose", None, f"{title} rose {numbers}."
        else:
            kind, said, advice = "bad", "fell", next_steps.lower_lr(run)
            text = f"{title} fell {numbers}: training made these features worse."
        findings.append(Finding(kind, f"{title} {said}", text, advice, about, images))
    return findings


def sampling_noise(first: float, last: float, images: int) -> float:
    """Gives 1.96 standard deviations of the difference of two shares of this many images."""
    return 1.96 * (sum(max(share * (1 - share), 0.0) for share in (first, last)) / images) ** 0.5


def gains(run: RunData) -> list[Finding]:
    """Reads what comparisons say about the main metrics of this run's last weights against random init."""
    findings = []
    for comparison in run.comparisons:
        seen: set[str] = set()
        for row in comparison["rows"]:
            if not isinstance(row, dict) or not is_about_last(row, comparison, run):
                continue
            gain, name = row.get("over_random"), str(row.get("evaluation"))
            if not isinstance(gain, dict) or (mean := finite_number(gain.get("mean"))) is None or name in seen:
                continue
            seen.add(name)
            verdict, metric = str(gain.get("verdict")), str(row.get("metric"))
            kinds: dict[str, Kind] = {"better": "good", "worse": "bad"}
            gained = describe_gain(metric, mean, finite_number(gain.get("half")))
            gained += " points" if result_is_share(metric) else ""
            text = f"{evaluation_title(name)}, {result_title(metric)}: {gained} over random init, {_seeds(comparison)}."
            kind = kinds.get(verdict, "unknown")
            advice = next_steps.lower_lr(run) if kind == "bad" else None if kind == "good" else next_steps.measure(run)
            title = f"{evaluation_title(name)} against random init: {verdict}"
            about, images = measured_by(name), _images_of(run, name)
            findings.append(Finding(kind, title, text, advice, about, images))
    return findings


def _seeds(comparison: Row) -> str:
    seeds = finite_number(comparison.get("seeds"))
    return "an unknown number of seeds" if seeds is None else counted(int(seeds), "seed")


def _images_of(run: RunData, evaluation: str) -> int | None:
    """Test images of the stored results of an evaluation; None if they differ or are not known."""
    counts = {images_tested(result) for result in run.evaluations if result.get("evaluation") == evaluation}
    return counts.pop() if len(counts) == 1 else None


def baselines(run: RunData) -> list[Finding]:
    """Compares k-NN on the features with k-NN on baselines that need no learning."""
    knn = (run.summary or {}).get("knn")
    if not isinstance(knn, dict) or (after := finite_number(knn.get("after"))) is None:
        return []
    values = {name: finite_number(value) for name, value in knn.items() if name not in ("before", "after")}
    accuracies = {name: value for name, value in values.items() if value is not None}
    if not accuracies:
        return []
    best = max(accuracies, key=lambda name: accuracies[name])
    text = f"k-NN reaches {after:.1%}; the best baseline without learning, {best}, reaches {accuracies[best]:.1%}."
    noise = sampling_noise(after, accuracies[best], probe_images(run, "knn") or PROBE_IMAGES)
    if after > accuracies[best] + noise:
        return [Finding("note", "Beats the baselines", text)]
    if after > accuracies[best]:
        text += " Sampling noise can explain the difference."
        return [Finding("limit", f"Is not clearly better than {best}", text, next_steps.longer(run))]
    return [Finding("limit", f"Does not beat {best}", text, next_steps.longer(run))]


def stability(run: RunData) -> list[Finding]:
    """Checks for divergence and collapse."""
    findings = []
    last = run.rows[-1] if run.rows else {}
    not_finite = [name for name in ("loss", "contrastive", "pixel") if name in last and last[name] is None]
    if not_finite:
        text = (
            f"The last logged {not_finite[0]} is not a finite number. A lower optim.lr, a longer optim.warmup_fraction "
            "or optim.clip_grad_norm 1.0 usually helps."
        )
        findings.append(Finding("bad", "It diverged", text, next_steps.lower_lr(run)))
    spread, rank = (trained_series(run, name) for name in ("embedding_std", "rankme"))
    if not spread and not rank:
        text = "No validation after the first step measured the embeddings (effective rank, spread)."
        return [*findings, Finding("unknown", "Collapse", text)]
    numbers = [f"Effective rank {from_to(rank)}."] if rank else []
    numbers += [f"Spread of the embeddings {from_to(spread)} (1: uniform, 0: collapse)."] if spread else []
    text = " ".join(numbers)
    if _is_below(run, "embedding_std", spread, COLLAPSED_STD) or _is_below(run, "rankme", rank, COLLAPSED_RANK):
        text = f"All images have nearly the same embedding. {text}"
        return [*findings, Finding("bad", "It collapsed", text, next_steps.lower_lr(run))]
    if rank and rank[-1] < rank[0] / 2:
        text = f"{text} The embeddings use fewer directions than at the first validation."
        return [*findings, Finding("note", "No collapse, but fewer directions", text)]
    return [*findings, Finding("note", "No collapse", text)]


def _is_below(run: RunData, name: str, values: Sequence[float], limit: float) -> bool:
    """Whether the last value is below a limit: the one given, or one at which this metric raised an alarm."""
    alarms = [finite_number(alarm.get("limit")) for alarm in run.alarms if alarm.get("monitor") == name]
    return bool(values) and values[-1] < max([limit, *(alarm for alarm in alarms if alarm is not None)])


def losses(run: RunData) -> list[Finding]:
    """Compares the contrastive and the pixel loss in the first and the last tenth of the run.

    A cross-entropy against a teacher's distribution moves with that distribution: DINO's loss rises at first in a healthy
    run. There the divergence counts, which is the loss minus the teacher's entropy.
    """
    findings = []
    contrastive = run.series("loss_dino")[1] or run.series("contrastive")[1]
    entropy = run.series("teacher_entropy")[1]
    contrastive_name = "Contrastive loss"
    if entropy and len(entropy) == len(contrastive):
        contrastive = [loss - teacher for loss, teacher in zip(contrastive, entropy)]
        contrastive_name = "Divergence from the teacher"
    for name, values in ((contrastive_name, contrastive), ("Pixel loss", run.series("pixel")[1])):
        if (pair := ends(values)) is None:
            continue
        first, last = pair
        fall = (first - last) / abs(first) if first else 0.0
        text = f"{name}: {first:.3g} in the first tenth of the run, {last:.3g} in the last."
        if abs(fall) <= MIN_LOSS_CHANGE:
            findings.append(Finding("bad", f"{name} did not change", text, next_steps.raise_lr(run)))
        elif fall > 0:
            findings.append(Finding("good", f"{name} fell by {fall:.0%}", text))
        else:
            findings.append(Finding("bad", f"{name} rose by {-fall:.0%}", text, next_steps.lower_lr(run)))
    return findings


def correspondence(run: RunData) -> list[Finding]:
    """Compares the share of patches that match the same position in another view, at the first and the last validation."""
    _, values = run.series("correspondence", validations=True)
    _, guess = run.series("correspondence_chance", validations=True)
    if len(values) < 2:
        return []
    random_guess = f"; a random guess gives {guess[-1]:.1%}" if guess else ""
    text = (
        f"Patches matched to the same position in another view: {values[0]:.1%} at the first validation, "
        f"{values[-1]:.1%} at the last{random_guess}."
    )
    change = values[-1] - values[0]
    if change > MIN_CORRESPONDENCE_CHANGE:
        return [Finding("good", "Patch correspondence improved", text)]
    kind: Kind = "note" if change > -MIN_CORRESPONDENCE_CHANGE else "limit"
    return [Finding(kind, "Patch correspondence did not improve", text, next_steps.heavier_branch(run))]


def reconstruction(run: RunData) -> list[Finding]:
    """Compares the PSNR of the fixed images at the first and the last validation, and with images of a single color."""
    _, values = run.series("psnr", validations=True)
    _, flat = run.series("psnr_flat", validations=True)
    if len(values) < 2:
        return []
    single_color = f"; a single color per image gives {flat[-1]:.1f} dB" if flat else ""
    text = f"PSNR of the fixed images went {from_to(values)} dB{single_color}."
    if flat and values[-1] <= flat[-1]:
        title = "Reconstruction is no better than a single color"
        return [Finding("limit", title, text, next_steps.heavier_branch(run))]
    if values[-1] > values[0]:
        return [Finding("good", "Reconstruction improved", text)]
    return [Finding("limit", "Reconstruction did not improve", text, next_steps.lower_lr(run))]


def trained_series(run: RunData, name: str) -> list[float]:
    """The values of a metric at the validations, if there is one after step 0: nothing before training is a result."""
    steps, values = run.series(name, validations=True)
    return values if steps and steps[-1] > 0 else []


def ends(values: Sequence[float]) -> tuple[float, float] | None:
    """Gives the medians of the first and the last tenth; None for fewer than four values."""
    if len(values) < 4:
        return None
    tenth = max(1, len(values) // 10)
    return median(values[:tenth]), median(values[-tenth:])


def from_to(values: Sequence[float]) -> str:
    return f"from {values[0]:.3g} to {values[-1]:.3g}" if len(values) > 1 else f"{values[-1]:.3g}"
