"""Writes docs/evidence.md and its pictures from the results; says what has not been run.

python -m experiments.tables
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.machine import words

from experiments.baselines import register
from experiments.claims import LOSS, POINTS, by_figure, in_words, interval, over, primary, summary
from experiments.analysis import (
    Line,
    Results,
    bootstrap,
    failures,
    lines,
    load,
    pooled_objects,
    without_fold,
)
from experiments.plan import TITLES, Plan, Row, tasks
from experiments.presets import PRESETS, Preset
from experiments.run import RESULTS
from repre.errors import UserError

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Evidence

What the branch is worth, measured on data that anyone can build. This page is written by `experiments/tables.py`
from the JSON files below `experiments/results/`; every figure there carries its config and the machine.

- **Data.** FashionScenes puts articles of Fashion-MNIST, in random colors, on photographs; StampScenes puts photographic
  cut-outs of 13 classes on them. Both are composed by `experiments/build_scenes.py` from Debian packages that are pinned by
  version and SHA-256. Training and test images share no object, no near-duplicate and no photograph.
- **Confirmatory** is one comparison, fixed before it was run: MoCo v3 with a ViT and MoBY with a Swin on FashionScenes,
  RePre's defaults against the plain framework, five seeds each, paired: equal initial weights, order, views and heads.
  Its seeds are used nowhere else. Its scenes with masks are composed anew, but of the articles and photographs that
  exploratory ones are made of; the images of k-NN and linear, and those to pre-train on, are the same. Everything else is
  **exploratory**: no correction for the number of comparisons is made, and the defaults were chosen from it. The sizes of
  the two-core preset were set by pilots at seed 100, which stand in no table.
- **Figures** are in per cent, on test images that no training saw. *Linear mIoU*: a 1x1 convolution on frozen maps of all
  levels; the mean IoU of background and ten classes. *UPerNet* and *AP* (Mask R-CNN, COCO's measure): encoder and head
  trained together. *Object*: the ten classes are one; object mIoU is the mean of the IoU of object and of background, of
  which background alone, everywhere, makes about 38. *k-NN* and *linear* see images with one object. *Gradient ratio*:
  norm of the branch's gradient over that of the contrastive loss, the largest at three depths of the encoder, on 64 images
  with the model as it began and as it ended.
- **Differences** are in points, at equal seeds, with the 95 % interval of Student's t. Where the interval holds 0 the table
  says "no difference". A figure in brackets is a difference that too few seeds allow no interval for. † marks differences
  of which a pair was measured on two machines: rounding alone makes another encoder of a seed
  ([how far apart](results.md#whether-the-evaluations-themselves-are-sound)).

Again: `python -m experiments.run --preset cpu --download`, then `python -m experiments.tables`. The runner
goes on where it stopped; `--only confirmatory`, `--hours 2` and `--preset gpu` do what they say. Encoders are not kept with
the results: a start that lacks a figure is trained again, and where another processor gives it other weights, all of its
figures are measured again.
"""
WHY = " (chosen before the confirmation, after a pilot in which linear mIoU was that of background alone)"
NOTES = {
    "1": "RePre's recipes as they are: with DINO the branch has weight 1, with the others 10. What is trained as long as "
    "with the branch is compared with the branch: above 0 the longer plain training is better.",
    "2": "Each row changes one setting of the defaults (weight 10, the clean crop as target, four levels, convolutional "
    "decoder, L1, both views, no mask); the last two change two.",
    "3": "Each start against RePre's: above 0 the other is better. Every self-supervised start sees as many images, the "
    "supervised one as many views; a step of one costs more than that of another.",
    "5": "Against the plain framework: the branch as it was first built (weight 1, the view as target), its defaults, and "
    "what the monitors' ratio of gradients suggests beside them.",
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
    return "\n".join(parts).rstrip() + "\n"


def _about(preset: Preset, rows: list[Row], found: Results) -> str:
    todo = tasks(rows)
    done = sum((task.start.name, task.seed, task.evaluation) in found for task in todo)
    encoders = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in config.model_args.items())}"
        for name, config in preset.encoders.items()
    )
    why = WHY if preset.primary == "foreground" else ""
    text = [
        f"## Preset `{preset.name}`\n",
        f"{preset.size} px, {preset.images} images x {preset.epochs} epochs, batch {preset.batch}, "
        f"{preset.precision}; heads are trained on {preset.labeled} images and tested on {preset.test}{_articles(preset)}. "
        f"{encoders}. Primary figure: {primary(preset)}{why}. **{done} of {len(todo)} figures are measured.**\n",
    ]
    if not found:
        text.append(f"Not run yet: `python -m experiments.run --preset {preset.name} --download`.\n")
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
        return f"Not run yet: `python -m experiments.run --preset {preset.name} --only {table}`.\n"
    text = []
    if table == "confirmatory":
        text += [markdown(all_lines), verdict(all_lines, primary=primary(preset))]
    if table == "stamps":
        text += [over_folds(all_lines), _objects(rows, found)]
    if plots:
        from experiments.plots import draw

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
    """For every start and figure the mean, over how many seeds, and the mean difference at equal seeds, since means of other
    seeds do not compare."""
    return by_figure("mean (seeds), difference at equal seeds", [line for line in all_lines if line.values], _mean)


def _mean(line: Line) -> str:
    mean = sum(line.values.values()) / len(line.values)
    return f"{mean:.1f} ({len(line.values)})" + (f", {line.gain.mean:+.1f}" if line.gain else "")


def markdown(all_lines: list[Line]) -> str:
    """A table with every seed, a dash where another start has a figure; starts without any are named below it."""
    seeds = sorted({seed for line in all_lines for seed in line.values})
    text = ["| figure | start | by seed | mean | against | difference |", "|---|---|---|---|---|---|"]
    for line in all_lines:
        if line.values:
            mean = sum(line.values.values()) / len(line.values)
            each = " ".join(f"{line.values[seed]:.1f}" if seed in line.values else "–" for seed in seeds)
            against = line.row.against or ""
            text.append(f"| {line.figure} | {line.row.label} | {each} | {mean:.1f} | {against} | {_words(line)} |")
    return "\n".join(text) + "\n"


def _words(line: Line) -> str:
    if line.gain is None:
        return ""
    text = interval(line)
    if line.gain.half is None:
        return text
    return f"{text} no difference" if line.gain.verdict == "no difference" else f"**{text}** {line.gain.verdict}"


def verdict(all_lines: list[Line], *, primary: str) -> str:
    """What the confirmatory comparison says of the goal, pair by pair; nothing where seeds are missing."""
    text = [
        f"The goal was at least {POINTS:g} points in {primary}, with k-NN and linear no worse than {LOSS:g}; the means "
        "decide.\n"
    ]
    for label in dict.fromkeys(line.row.label for line in all_lines if line.row.label.endswith(" + branch")):
        mine = {line.figure: line for line in all_lines if line.row.label == label}
        if any(mine[name].pairs < mine[name].row.seeds for name in (primary, "k-NN", "linear")):
            text.append(f"- {label}: undecided, not all pairs of seeds are measured.")
            continue
        gains = {name: line.gain for name, line in mine.items() if line.gain is not None}
        reached = gains[primary].mean >= POINTS
        kept = all(gains[name].mean >= LOSS for name in ("k-NN", "linear"))
        text.append(
            f"- {label}: {primary} {_words(mine[primary])}; the gain is {'' if reached else '**not** '}reached, and "
            f"k-NN and linear are {'' if kept else '**not** '}kept ({gains['k-NN'].mean:+.1f}, {gains['linear'].mean:+.1f})."
            f"{_beside_random(all_lines, label.removesuffix(' + branch'))}"
        )
    return "\n".join(text) + "\n"


def _beside_random(all_lines: list[Line], label: str) -> str:
    """What the framework without the branch has learned at all."""
    known = [line for line in all_lines if line.row.label == label and line.gain is not None]
    told = "; ".join(f"{line.figure} {_words(line)}" for line in known)
    return f" The plain framework against the encoder at random: {told}." if told else ""


def over_folds(all_lines: list[Line]) -> str:
    """The differences of the folds as one, with the interval over them; each fold counts once."""
    by_label: dict[str, dict[str, list[float]]] = {}
    for line in all_lines:
        if line.gain is not None:
            by_label.setdefault(without_fold(line.row.label), {}).setdefault(line.figure, []).append(line.gain.mean)
    text = ["Mean difference over the folds, with the interval over them (folds):\n"]
    for label, figures in by_label.items():
        told = (f"{name} {in_words(over(each))} ({len(each)})" for name, each in figures.items())
        text.append(f"- {label}: {'; '.join(told)}")
    return "\n".join(text) + "\n"


def _objects(rows: list[Row], found: Results) -> str:
    pools = pooled_objects(rows, found)
    text = [
        "k-NN over all folds and seeds, with the interval of a bootstrap over source objects, near-duplicates as one. It is "
        "of these encoders: how far trainings differ is not in it.\n"
    ]
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
    try:
        if not any((given.results / preset.name).is_dir() for preset in presets):
            raise UserError(f"--results {given.results}: there are no results; experiments.run writes them")
        if not given.docs.is_dir():
            raise UserError(f"--docs {given.docs}: there is no such folder")
        if not given.no_plots and find_spec("matplotlib") is None:
            raise UserError(
                "pictures need matplotlib: pip install 'repre[dev]', or write the text alone with --no-plots"
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    text = page(given.results, given.docs, presets=presets, plots=not given.no_plots)
    (given.docs / "evidence.md").write_text(text, encoding="utf-8")
    print(f"written to {given.docs / 'evidence.md'}")


if __name__ == "__main__":
    main()
