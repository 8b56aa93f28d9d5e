"""What speaks for and against learning, each statement with the figures that it rests on.

Labels are asked first (probes before against after, gains over chance, baselines), then what needs none: collapse, losses,
correspondence of patches, fidelity. A falling loss alone is no proof of useful features.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from repre.reporting.run_data import Row, RunData, number

Kind = Literal["good", "bad", "limit", "unknown", "note"]
"""good, bad: evidence for and against learning; limit: what held it back; unknown: cannot be told; note: for reading."""
PROBE = re.compile(r"(knn|miou|linear)\w*")
"""Names of the figures of labeled probes."""
PROBE_WORDS = {"knn": "k-NN accuracy", "miou": "mIoU of the linear probe"}
PROBED = 1000
"""Test images that a probe is taken to have; the embedded scenes' k-NN has as many."""
NOTICEABLE = 0.01
"""Smallest change of the share of corresponding patches that counts; there are thousands."""
MOVED = 0.02
"""Smallest change of a loss that counts, as a share of it."""
COLLAPSED_STD, COLLAPSED_RANK = 0.05, 1.5
"""Below these all images look the same to the encoder (1 is a healthy spread; an effective rank of 1 is one direction)."""


@dataclass(frozen=True)
class Finding:
    """One statement: its kind, a few words, and a sentence with its figures."""

    kind: Kind
    title: str
    words: str


def probes(run: RunData) -> list[Finding]:
    """Labeled probes, the first look against the last."""
    found = []
    names = dict.fromkeys(name for look in run.validations for name in look if PROBE.fullmatch(name))
    for name in names:
        steps, values = run.column(name, validations=True)
        if len(values) < 2:
            continue
        words, moved = PROBE_WORDS.get(name, name), values[-1] - values[0]
        since = "before training" if steps[0] == 0 else f"at step {steps[0]:.0f}"
        told = f"from {values[0]:.1%} {since} to {values[-1]:.1%} at step {steps[-1]:.0f}"
        if abs(moved) <= by_chance(values[0], values[-1]):
            told = f"{words} went {told}: on about {PROBED} images that can be chance."
            found.append(Finding("unknown", f"{words} hardly moved", told))
        elif moved > 0:
            found.append(Finding("good", f"{words} rose", f"{words} rose {told}."))
        else:
            found.append(Finding("bad", f"{words} fell", f"{words} fell {told}: training made these features worse."))
    return found


def by_chance(one: float, other: float) -> float:
    """How far two shares of `PROBED` images may differ by chance: 1.96 standard deviations of the difference."""
    return 1.96 * (sum(max(share * (1 - share), 0.0) for share in (one, other)) / PROBED) ** 0.5


def gains(run: RunData) -> list[Finding]:
    """What comparisons say about this run's main figures against chance."""
    found = []
    for comparison in run.comparisons:
        seen: set[str] = set()
        for row in comparison["rows"]:
            if not isinstance(row, dict) or not _mine(row, comparison, run):
                continue
            gain, name = row.get("over_random"), str(row.get("evaluation"))
            if not isinstance(gain, dict) or (mean := number(gain.get("mean"))) is None or name in seen:
                continue
            seen.add(name)
            half, said = number(gain.get("half")), str(gain.get("verdict"))
            within = f" ± {100 * half:.1f}" if half is not None else ""
            kinds: dict[str, Kind] = {"better": "good", "worse": "bad"}
            told = f"{row.get('metric')}: {100 * mean:+.1f}{within} points over the same model without training."
            found.append(Finding(kinds.get(said, "unknown"), f"{name} against chance: {said}", told))
    return found


def _mine(row: Row, comparison: Row, run: RunData) -> bool:
    """Whether a row is about this run: by the places of the results, or by the folder's name."""
    results = comparison.get("results")
    starts = {
        str(one.get("start"))
        for one in (results if isinstance(results, list) else [])
        if isinstance(one, dict) and run.path.resolve() in Path(str(one.get("path", ""))).resolve().parents
    }
    parts = [part for part in str(row.get("start")).split(",") if not part.startswith("random:")]
    return any(part in starts or Path(part).name == run.name for part in parts)


def baselines(run: RunData) -> list[Finding]:
    """k-NN on the features against k-NN on what needs no learning."""
    knn = (run.summary or {}).get("knn")
    if not isinstance(knn, dict) or (after := number(knn.get("after"))) is None:
        return []
    others = {k: v for k, value in knn.items() if k not in ("before", "after") and (v := number(value)) is not None}
    if not others:
        return []
    best = max(others, key=lambda name: others[name])
    told = f"k-NN gives {after:.1%}; the best baseline without learning, {best}, gives {others[best]:.1%}."
    if after > others[best]:
        return [Finding("note", "Beats the baselines", told)]
    return [Finding("limit", f"Does not beat {best}", told)]


def health(run: RunData) -> list[Finding]:
    """Divergence and collapse."""
    found = []
    last = run.rows[-1] if run.rows else {}
    lost = [name for name in ("loss", "contrastive", "pixel") if name in last and last[name] is None]
    if lost:
        fix = "a lower optim.lr, a longer optim.warmup_fraction or optim.clip_grad_norm 1.0 usually helps"
        found.append(Finding("bad", "It diverged", f"The last logged {lost[0]} is not a finite number: {fix}."))
    spread, rank = (run.column(name, validations=True)[1] for name in ("embedding_std", "rankme"))
    if not spread and not rank:
        return [*found, Finding("unknown", "Collapse", "There is no look at the embeddings (rankme, embedding_std).")]
    told = "; ".join(
        f"{words} {way(values)}"
        for words, values in (("effective rank", rank), ("spread of the embeddings (1 is uniform, 0 collapse)", spread))
        if values
    )
    told = f"{told[0].upper()}{told[1:]}."
    if _below(run, "embedding_std", spread, COLLAPSED_STD) or _below(run, "rankme", rank, COLLAPSED_RANK):
        return [*found, Finding("bad", "It collapsed", f"All images look nearly the same to the encoder. {told}")]
    if rank and rank[-1] < rank[0] / 2:
        told = f"{told} The images spread over fewer directions than at the first look."
        return [*found, Finding("note", "No collapse, but fewer directions", told)]
    return [*found, Finding("note", "No collapse", told)]


def _below(run: RunData, name: str, values: Sequence[float], limit: float) -> bool:
    """Whether the last look is below a limit: ours, or one at which the monitor raised an alarm."""
    alarms = [number(alarm.get("limit")) for alarm in run.alarms if alarm.get("monitor") == name]
    return bool(values) and values[-1] < max([limit, *(one for one in alarms if one is not None)])


def losses(run: RunData) -> list[Finding]:
    """The contrastive and the pixel loss, the first tenth of the run against the last.

    A cross-entropy to a teacher's distribution moves with that distribution, so that DINO's loss rises at first while all
    goes well; what is judged there is what the loss is above the teacher's entropy: the divergence between the two.
    """
    found = []
    contrastive, entropy = run.column("contrastive")[1], run.column("teacher_entropy")[1]
    name = "Contrastive loss"
    if entropy and len(entropy) == len(contrastive):
        contrastive = [loss - bits for loss, bits in zip(contrastive, entropy)]
        name = "Divergence from the teacher"
    for words, values in ((name, contrastive), ("Pixel loss", run.column("pixel")[1])):
        if (pair := ends(values)) is None:
            continue
        first, last = pair
        fell = (first - last) / abs(first) if first else 0.0
        told = f"{words}: {first:.3g} in the first tenth of the run, {last:.3g} in the last."
        if abs(fell) <= MOVED:
            found.append(Finding("bad", f"{words} did not move", told))
        else:
            title = f"{words} {'fell' if fell > 0 else 'rose'} by {abs(fell):.0%}"
            found.append(Finding("good" if fell > 0 else "bad", title, told))
    return found


def dense(run: RunData) -> list[Finding]:
    """Whether patches find their place in another view of the image."""
    _, values = run.column("correspondence", validations=True)
    _, chance = run.column("correspondence_chance", validations=True)
    if len(values) < 2:
        return []
    guessed = f", by chance {chance[-1]:.1%}" if chance else ""
    told = (
        f"Patches that find their place in another view: {values[0]:.1%} at first, {values[-1]:.1%} at last{guessed}."
    )
    moved = values[-1] - values[0]
    if moved > NOTICEABLE:
        return [Finding("good", "Patches know better where they are", told)]
    return [Finding("note" if moved > -NOTICEABLE else "limit", "Patches do not find their place better", told)]


def fidelity(run: RunData) -> list[Finding]:
    """PSNR of the fixed images, against a picture of one color."""
    _, values = run.column("psnr", validations=True)
    _, flat = run.column("psnr_flat", validations=True)
    if len(values) < 2:
        return []
    told = f"PSNR of the fixed images {way(values)} dB" + (
        f"; one color each gives {flat[-1]:.1f} dB." if flat else "."
    )
    if flat and values[-1] <= flat[-1]:
        return [Finding("limit", "Reconstruction is no better than one color", told)]
    better = values[-1] > values[0]
    return [Finding("good" if better else "limit", f"Reconstruction is {'' if better else 'not '}closer", told)]


def ends(values: Sequence[float]) -> tuple[float, float] | None:
    """The median of the first and of the last tenth; None where there are fewer than four values."""
    if len(values) < 4:
        return None
    tenth = max(1, len(values) // 10)
    return median(values[:tenth]), median(values[-tenth:])


def way(values: Sequence[float]) -> str:
    """From where to where."""
    return f"from {values[0]:.3g} to {values[-1]:.3g}" if len(values) > 1 else f"{values[-1]:.3g}"
