"""Writes docs/evidence.md and its pictures from the results; says what has not been run.

python -m benchmarks.evidence.tables
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence.baselines import register
from benchmarks.evidence.claims import LOSS, POINTS, interval, primary, summary
from benchmarks.evidence.figures import (
    Line,
    Results,
    bootstrap,
    failures,
    lines,
    load,
    pooled_objects,
    training_notes,
)
from benchmarks.evidence.plan import TITLES, Plan, Row, tasks
from benchmarks.evidence.presets import PRESETS, Preset
from benchmarks.evidence.run import RESULTS
from benchmarks.machine import words

from repre.evaluate.compare import Gain

DOCS = Path(__file__).parents[2] / "docs"
HEAD = """# Evidence

What the branch is worth, measured on data that anyone can build. This page is written by `benchmarks/evidence/tables.py`
from the JSON files below `benchmarks/evidence/results/`; every figure there carries its config and the machine.

- **Data.** FashionScenes puts articles of Fashion-MNIST, in random colours, on photographs; StampScenes puts photographic
  cut-outs of 13 classes on them. Both are composed by `benchmarks/evidence/build.py` from Debian packages that are pinned by
  version and SHA-256. Training and test images share no object, no near-duplicate and no photograph.
- **Confirmatory** is one comparison, fixed before it was run: MoCo v3 with a ViT and MoBY with a Swin on FashionScenes,
  RePre's defaults against the plain framework, five seeds each, paired: equal initial weights, order, views and heads.
  Its seeds and its images with masks are used nowhere else. Everything else is **exploratory**: no correction for the
  number of comparisons is made, and the defaults were chosen from it. The sizes of the two-core preset were set by pilots at
  seed 100, which stand in no table: large enough that training moves the figures.
- **Figures** are percentages of test images that no training saw. *Linear mIoU*: a 1x1 convolution on frozen maps of all
  levels. *UPerNet* and *AP* (Mask R-CNN, COCO's measure): encoder and head trained together. *Object* mIoU and AP: the
  ten classes are one, object. *k-NN* and *linear* see images with one object. *Gradient ratio*: norm of the branch's
  gradient over that of the contrastive loss, the largest at three depths of the encoder, on 64 images with the model as it
  began and as it ended.
- **Differences** are in points, at equal seeds, with the 95 % interval of Student's t. Where the interval holds 0 the table
  says "no difference". A figure in brackets is a difference that too few seeds allow no interval for.

Again: `python -m benchmarks.evidence.run --preset cpu --download`, then `python -m benchmarks.evidence.tables`. The runner
goes on where it stopped; `--only confirmatory`, `--hours 2` and `--preset gpu` do what they say. Encoders are not kept with
the results: a start that lacks a figure is trained again, and where another processor gives it other weights, all of its
figures are measured again.
"""
NOTES = {
    "2": "Each row changes one setting of the defaults (weight 10, the clean crop as target, four levels, convolutional "
    "decoder, L1, both views, no mask); the last two change two. A difference in brackets is of one seed: compare it with "
    "how far the seeds of the confirmatory table lie apart.",
    "5": "The branch as it was first built (weight 1, the view as target) against what the monitors' ratio of gradients "
    "suggests.",
    "3": "Each start against RePre's: above 0 the other is better. Every self-supervised start sees as many images, the "
    "supervised one as many views; that is not equal time, so the seconds stand below.",
    "stamps": "Some classes have three or four test objects in a fold: on one fold, under 5 points is noise.",
}


def page(results: Path, docs: Path, *, presets: list[Preset], plots: bool = True) -> str:
    """The whole page; draws its pictures into docs/images on the way."""
    parts = [HEAD]
    for preset in presets:
        found = load(results / preset.name)
        rows = Plan(preset).rows()
        parts.append(_about(preset, rows, found))
        for each in failures(results / preset.name):
            parts.append(f"Broke down: {each['start']}, seed {each['seed']}: {each['failure']}.\n")
        if not found:
            continue
        parts.append(summary(preset, rows, found, results))
        for table, title in TITLES.items():
            mine = [row for row in rows if row.table == table]
            parts.append(f"### {title}\n")
            if table in NOTES:
                parts.append(f"{NOTES[table]}\n")
            parts.append(_table(preset, table, mine, found, docs, plots=plots))
            if told := _seconds(mine, training_notes(results / preset.name)):
                parts.append(told)
    return "\n".join(parts).rstrip() + "\n"


def _about(preset: Preset, rows: list[Row], found: Results) -> str:
    todo = tasks(rows)
    done = sum((task.start.name, task.seed, task.evaluation) in found for task in todo)
    encoders = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in config.model_args.items())}"
        for name, config in preset.encoders.items()
    )
    text = [
        f"## Preset `{preset.name}`\n",
        f"{preset.size} px, {preset.images} images x {preset.epochs} epochs, batch {preset.batch}, "
        f"{preset.precision}; heads are trained on {preset.labelled} images and tested on {preset.test}{_articles(preset)}. "
        f"{encoders}. "
        f"Primary figure: {primary(preset)}. **{done} of {len(todo)} figures are measured.**\n",
    ]
    if not found:
        text.append(f"Not run yet: `python -m benchmarks.evidence.run --preset {preset.name} --download`.\n")
    else:
        text += ["Measured on:\n", *_machines(found), ""]
    return "\n".join(text)


def _machines(found: Results) -> list[str]:
    """A line for every machine, with how much was measured there and by which versions of the code."""
    sources: dict[str, list[str]] = {}
    for content in found.values():
        machine = dict(content["machine"])
        source = machine.pop("source")
        sources.setdefault(words(machine), []).append(source)
    return [
        f"- {len(each)} figures: {name}; source {', '.join(sorted(set(each)))}"
        for name, each in sorted(sources.items())
    ]


def _articles(preset: Preset) -> str:
    if preset.plain_articles is None:
        return ""
    train, test = preset.plain_articles
    return f" (k-NN and linear on FashionScenes: plain articles of Fashion-MNIST, {train} and {test})"


def _table(preset: Preset, table: str, rows: list[Row], found: Results, docs: Path, *, plots: bool) -> str:
    all_lines = lines(rows, found)
    if not any(line.values for line in all_lines):
        return f"Not run yet: `python -m benchmarks.evidence.run --preset {preset.name} --only {table}`.\n"
    text = []
    if table == "confirmatory":
        text += [markdown(all_lines), verdict(all_lines, primary=primary(preset))]
    if table == "stamps":
        text.append(_objects(rows, found))
    if plots:
        from benchmarks.evidence.plots import draw

        for path in draw(all_lines, docs / "images" / f"evidence-{preset.name}-{table}.png", curves=table == "4"):
            text.append(f"![{TITLES[table]}]({path.relative_to(docs).as_posix()})\n")
    if table != "confirmatory":
        text.append(means(all_lines))
        text.append(f'<details markdown="1">\n<summary>Every seed</summary>\n\n{markdown(all_lines)}\n</details>\n')
    missing = sorted({f"{line.figure} of {line.row.label}" for line in all_lines if len(line.values) < line.row.seeds})
    if missing:
        shown = "; ".join(missing[:6]) + (f"; and {len(missing) - 6} more" if len(missing) > 6 else "")
        text.append(f"Not run yet, or not for all seeds: {shown}.\n")
    return "\n".join(text)


def means(all_lines: list[Line]) -> str:
    """A row for every start, a column for every figure: the mean, and over how many seeds."""
    known = {(line.row.label, line.figure): list(line.values.values()) for line in all_lines if line.values}
    figures, labels = (
        [*dict.fromkeys(names)] for names in ((line.figure for line in all_lines), (one for one, _ in known))
    )
    figures = [name for name in figures if any(name == each for _, each in known)]
    text = [f"| mean (seeds) | {' | '.join(figures)} |", f"|---|{'---|' * len(figures)}"]
    for label in labels:
        cells = (known.get((label, name)) for name in figures)
        shown = (f"{sum(each) / len(each):.1f} ({len(each)})" if each else "–" for each in cells)
        text.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join(text) + "\n"


def _seconds(rows: list[Row], notes: Mapping[tuple[str, int], dict[str, Any]]) -> str:
    each = {
        row.label: [notes[row.start.name, seed]["seconds"] for seed in row.each_seed if (row.start.name, seed) in notes]
        for row in rows
    }
    told = [f"{label} {sum(seconds) / len(seconds):.0f}" for label, seconds in each.items() if seconds]
    return (
        f"Seconds of a training, mean over seeds, on a machine shared with other runs: {'; '.join(told)}.\n"
        if told
        else ""
    )


def markdown(all_lines: list[Line]) -> str:
    """A table with every seed, a dash where another start has a figure; starts without any are named below it."""
    seeds = sorted({seed for line in all_lines for seed in line.values})
    text = ["| figure | start | by seed | mean | against | difference |", "|---|---|---|---|---|---|"]
    for line in all_lines:
        if line.values:
            mean = sum(line.values.values()) / len(line.values)
            each = " ".join(f"{line.values[seed]:.1f}" if seed in line.values else "–" for seed in seeds)
            against = line.row.against or ""
            text.append(f"| {line.figure} | {line.row.label} | {each} | {mean:.1f} | {against} | {_words(line.gain)} |")
    return "\n".join(text) + "\n"


def _words(gain: Gain | None) -> str:
    if gain is None or gain.half is None:
        return "" if gain is None else interval(gain)
    text = interval(gain)
    return f"{text} no difference" if gain.verdict == "no difference" else f"**{text}** {gain.verdict}"


def verdict(all_lines: list[Line], *, primary: str) -> str:
    """What the confirmatory comparison says of the goal, pair by pair; nothing where seeds are missing."""
    text = [f"The goal was at least {POINTS:g} points in {primary}, with k-NN and linear no worse than {LOSS:g}.\n"]
    for label in dict.fromkeys(line.row.label for line in all_lines if line.row.against):
        mine = {line.figure: line for line in all_lines if line.row.label == label}
        if any(mine[name].pairs < mine[name].row.seeds for name in (primary, "k-NN", "linear")):
            text.append(f"- {label}: undecided, not all pairs of seeds are measured.")
            continue
        gains = {name: line.gain for name, line in mine.items() if line.gain is not None}
        reached = gains[primary].mean >= POINTS
        kept = all(gains[name].mean >= LOSS for name in ("k-NN", "linear"))
        text.append(
            f"- {label}: {primary} {_words(gains[primary])}; the gain is {'' if reached else '**not** '}reached, and "
            f"k-NN and linear are {'' if kept else '**not** '}kept ({gains['k-NN'].mean:+.1f}, {gains['linear'].mean:+.1f})."
        )
    return "\n".join(text) + "\n"


def _objects(rows: list[Row], found: Results) -> str:
    pools = pooled_objects(rows, found)
    text = ["k-NN over all folds and seeds, interval by a bootstrap over source objects:\n"]
    for label in pools:
        if label.endswith(" + branch"):
            mean, low, high = bootstrap(pools[label], pools[label.removesuffix(" + branch")])
            text.append(f"- {label}: {mean:+.1f} points [{low:+.1f}, {high:+.1f}], {len(pools[label])} objects")
    return "\n".join(text) + "\n" if len(text) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--no-plots", action="store_true", help="write the text alone, without matplotlib")
    given = parser.parse_args()
    register()
    presets = [preset for preset in PRESETS.values() if preset.packages]
    text = page(given.results, given.docs, presets=presets, plots=not given.no_plots)
    (given.docs / "evidence.md").write_text(text, encoding="utf-8")
    print(f"written to {given.docs / 'evidence.md'}")


if __name__ == "__main__":
    main()
