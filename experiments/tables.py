"""Writes docs/evidence.md and its plots from the stored results, and lists what is not measured.

python -m experiments.tables
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.machine import describe_machine

from experiments.all_presets import PRESETS, plan_of
from experiments.analysis import (
    Entry,
    Results,
    bootstrap,
    load_failures,
    load_results,
    pool_objects,
    table_entries,
    without_fold,
)
from experiments.claims import (
    BRANCH,
    MIN_CHANGE,
    MIN_GAIN,
    format_difference,
    format_gain,
    markdown_table,
    pool,
    primary_metric,
    summary,
)
from experiments.plan import TITLES, Row, tasks
from experiments.presets import Preset
from experiments.run import RESULTS
from repre.errors import UserError

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Evidence

Does the reconstruction branch help? All measurements use data that anyone can build. `experiments/tables.py` writes
this page from the JSON files in `experiments/results/`; each of them holds its config and the machine.

- **Data.** FashionScenes has articles of Fashion-MNIST, in random colors, on photographs. StampScenes has
  photographic cut-outs of 13 classes on photographs. `experiments/build_scenes.py` composes both from Debian packages
  that are pinned by version and SHA-256. Training and test images share no object, no near-duplicate and no
  photograph.
- **Confirmatory.** One comparison was fixed before it was run: RePre's defaults against the plain framework on
  FashionScenes, for MoCo v3 with a ViT and for MoBY with a Swin, each with five pairs of runs. Both runs of a pair
  share initial weights, data order, views and heads. Its seeds are used nowhere else. Its scenes with masks are new,
  but they use the articles and photographs of the exploratory scenes. The images for pre-training, k-NN and linear
  are the same as in the exploratory tables.
- **Exploratory.** Everything else. There is no correction for the number of comparisons, and the defaults were chosen
  from these tables. Pilots at seed 100, which are in no table, set the sizes of the two-core preset.
- **Metrics** are in percent, on test images that no training used. *Linear mIoU*: a 1x1 convolution on frozen feature
  maps of all levels; mean IoU of background and ten classes. *UPerNet* and *AP* (Mask R-CNN, COCO's metric): encoder
  and head are trained together. *Object*: the ten classes are merged into one; object mIoU is the mean of the IoU of
  object and background, and predicting only background scores about 38. *k-NN* and *linear* use images with one
  object. *Gradient ratio*: norm of the branch's gradient over that of the contrastive loss, the largest at three
  depths of the encoder, on 64 images, with the initial and the final model.
- **Differences** are in percentage points, at equal seeds, with the 95 % interval of Student's t. If the interval
  contains 0, the table says "no difference". A difference in parentheses has too few seeds for an interval. † marks
  differences with a pair that was measured on two machines: rounding alone can make the same seed end differently
  ([how far apart](results.md#whether-the-evaluations-themselves-are-sound)).

To reproduce: `python -m experiments.run --preset cpu --download`, then `python -m experiments.tables`. Run the same
command again to resume. Useful options: `--only confirmatory`, `--hours 2`, `--preset gpu`. Encoders are not stored
with the results: if a result is missing, the encoder is trained again, and if another processor gives it other
weights, all results of that encoder are measured again.
"""
WHY_FOREGROUND = (
    " (chosen before the confirmatory runs, after a pilot in which linear mIoU was that of predicting only background)"
)
NOTES = {
    "1": "RePre's recipes without changes: the branch has weight 1 with DINO and weight 10 with the other frameworks. The "
    "plain framework with the training time of the branch is compared with the branch; above 0 the longer plain training is "
    "better.",
    "2": "Each row changes one setting of the defaults (weight 10, the clean crop as target, four levels, convolutional "
    "decoder, L1, both views, no mask); the last two rows change two.",
    "3": "Each method against RePre; above 0 the other method is better. All self-supervised methods see equally many "
    "images, and the supervised one equally many views. The cost of a step differs between methods. Where patches are "
    "masked, in this table and table 2, they get the mean color, not SimMIM's learned token.",
    "5": "Against the plain framework: the branch with its first defaults (weight 1, augmented view as target), with its "
    "current defaults, and with settings that the monitors' gradient ratio suggests.",
    "stamps": "Some classes have three or four test objects in a fold: on one fold, differences below 5 points are noise.",
}
"""Table -> text below its title."""


def evidence_page(results: Path, docs: Path, *, presets: list[Preset], plots: bool = True) -> str:
    """Returns the page; writes its plots into docs/images.

    Args:
        results: folder of the results of all presets.
        docs: folder of the documentation.
        plots: whether to draw plots.
    """
    parts = [HEAD]
    for preset in presets:
        preset_results = load_results(results / preset.name)
        rows = plan_of(preset).rows()
        parts.append(_about(preset, rows, preset_results))
        for failure in load_failures(results / preset.name):
            parts.append(f"Failed: {failure['method']}, seed {failure['seed']}: {failure['failure']}.\n")
        if not preset_results:
            continue
        parts.append(summary(preset, rows, preset_results, results))
        for table, title in TITLES.items():
            table_rows = [row for row in rows if row.table == table]
            parts.append(f"### {title}\n")
            if table in NOTES:
                parts.append(f"{NOTES[table]}\n")
            parts.append(_table(preset, table, table_rows, preset_results, docs, plots=plots))
    return "\n".join(parts).rstrip() + "\n"


def _about(preset: Preset, rows: list[Row], results: Results) -> str:
    """The section of a preset: sizes, how much is measured, machines."""
    all_tasks = tasks(rows)
    done = sum((task.method.name, task.seed, task.evaluation) in results for task in all_tasks)
    encoders = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in config.model_args.items())}"
        for name, config in preset.encoders.items()
    )
    why = WHY_FOREGROUND if preset.primary == "foreground" else ""
    lines = [
        f"## Preset `{preset.name}`\n",
        f"{preset.size} px, {preset.images} images x {preset.epochs} epochs, batch size {preset.batch_size}, "
        f"{preset.precision}; heads are trained on {preset.labeled} images and tested on {preset.test}{_articles(preset)}. "
        f"{encoders}. Primary metric: {primary_metric(preset)}{why}. **{done} of {len(all_tasks)} results are measured.**\n",
    ]
    if results:
        lines += ["Measured on:\n", *_machines(results), ""]
    else:
        lines.append(f"Not measured yet: `python -m experiments.run --preset {preset.name} --download`.\n")
    return "\n".join(lines)


def _machines(results: Results) -> list[str]:
    """One line per machine: number of results and hashes of the code."""
    sources: dict[str, list[str]] = {}
    for content in results.values():
        machine = dict(content["machine"])
        source = machine.pop("source")
        sources.setdefault(describe_machine(machine), []).append(source)
    return [
        f"- {len(hashes)} results: {machine}; source {', '.join(sorted(set(hashes)))}"
        for machine, hashes in sorted(sources.items())
    ]


def _articles(preset: Preset) -> str:
    if preset.plain_articles is None:
        return ""
    train, test = preset.plain_articles
    return f" (k-NN and linear on FashionScenes: plain articles of Fashion-MNIST, {train} and {test})"


def _table(preset: Preset, table: str, rows: list[Row], results: Results, docs: Path, *, plots: bool) -> str:
    """One table with its plot and a list of what is missing."""
    entries = table_entries(rows, results)
    if not any(entry.values for entry in entries):
        return f"Not measured yet: `python -m experiments.run --preset {preset.name} --only {table}`.\n"
    parts = []
    if table == "confirmatory":
        parts += [seed_table(entries), verdicts(entries, primary=primary_metric(preset))]
    if table == "stamps":
        parts += [pooled_folds(entries), _object_bootstrap(rows, results)]
    if plots:
        from experiments.plots import save_plot

        path = docs / "images" / f"evidence-{preset.name}-{table}.png"
        if save_plot(entries, path, curves=table == "4"):
            parts.append(f"![{TITLES[table]}]({path.relative_to(docs).as_posix()})\n")
    if table != "confirmatory":
        parts.append(mean_table(entries))
        parts.append(f'<details markdown="1">\n<summary>Every seed</summary>\n\n{seed_table(entries)}\n</details>\n')
    missing = sorted(
        {f"{entry.metric} of {entry.row.label}" for entry in entries if len(entry.values) < entry.row.n_seeds}
    )
    if missing:
        rest = f"; and {len(missing) - 6} more" if len(missing) > 6 else ""
        parts.append(f"Not measured yet, or not for all seeds: {'; '.join(missing[:6])}{rest}.\n")
    return "\n".join(parts)


def mean_table(entries: list[Entry]) -> str:
    """Returns a table of means. The difference is at equal seeds, because means over different seeds are not comparable."""
    measured = [entry for entry in entries if entry.values]
    return markdown_table("mean (seeds), difference at equal seeds", measured, _format_mean)


def _format_mean(entry: Entry) -> str:
    return f"{_mean(entry):.1f} ({len(entry.values)})" + (f", {entry.gain.mean:+.1f}" if entry.gain else "")


def _mean(entry: Entry) -> float:
    return sum(entry.values.values()) / len(entry.values)


def seed_table(entries: list[Entry]) -> str:
    """Returns a table with the value of every seed, a dash where only other methods have one."""
    seeds = sorted({seed for entry in entries for seed in entry.values})
    lines = ["| metric | method | by seed | mean | against | difference |", "|---|---|---|---|---|---|"]
    for entry in entries:
        if entry.values:
            by_seed = " ".join(f"{entry.values[seed]:.1f}" if seed in entry.values else "–" for seed in seeds)
            baseline, difference = entry.row.baseline or "", _format_verdict(entry)
            lines.append(
                f"| {entry.metric} | {entry.row.label} | {by_seed} | {_mean(entry):.1f} | {baseline} | {difference} |"
            )
    return "\n".join(lines) + "\n"


def _format_verdict(entry: Entry) -> str:
    """The difference of an entry and whether it is better, worse or none; empty without a difference."""
    if entry.gain is None:
        return ""
    text = format_difference(entry)
    if entry.gain.half is None:
        return text
    return f"{text} no difference" if entry.gain.verdict == "no difference" else f"**{text}** {entry.gain.verdict}"


def verdicts(entries: list[Entry], *, primary: str) -> str:
    """Returns whether the confirmatory pairs reach the goal, pair by pair; undecided where seeds are missing."""
    lines = [
        f"The goal: a gain of at least {MIN_GAIN:g} points in {primary}, and a change of at least {MIN_CHANGE:g} in k-NN "
        "and linear. The means decide.\n"
    ]
    for label in dict.fromkeys(entry.row.label for entry in entries if entry.row.label.endswith(BRANCH)):
        by_metric = {entry.metric: entry for entry in entries if entry.row.label == label}
        if any(by_metric[name].pairs < by_metric[name].row.n_seeds for name in (primary, "k-NN", "linear")):
            lines.append(f"- {label}: undecided, not all pairs of seeds are measured.")
            continue
        gains = {name: entry.gain for name, entry in by_metric.items() if entry.gain is not None}
        gained = gains[primary].mean >= MIN_GAIN
        held = all(gains[name].mean >= MIN_CHANGE for name in ("k-NN", "linear"))
        changes = f"({gains['k-NN'].mean:+.1f}, {gains['linear'].mean:+.1f})"
        lines.append(
            f"- {label}: {primary} {_format_verdict(by_metric[primary])}; the gain is {'' if gained else '**not** '}"
            f"reached, and k-NN and linear are {'' if held else '**not** '}both within the limit {changes}."
            f"{_plain_against_random(entries, label.removesuffix(BRANCH))}"
        )
    return "\n".join(lines) + "\n"


def _plain_against_random(entries: list[Entry], label: str) -> str:
    """What the framework learns without the branch."""
    differences = "; ".join(
        f"{entry.metric} {_format_verdict(entry)}"
        for entry in entries
        if entry.row.label == label and entry.gain is not None
    )
    return f" The plain framework against random init: {differences}." if differences else ""


def pooled_folds(entries: list[Entry]) -> str:
    """Returns the mean difference over the folds, with the interval over them; each fold counts once."""
    by_label: dict[str, dict[str, list[float]]] = {}
    for entry in entries:
        if entry.gain is not None:
            by_metric = by_label.setdefault(without_fold(entry.row.label), {})
            by_metric.setdefault(entry.metric, []).append(entry.gain.mean)
    lines = ["Mean difference over the folds, with the interval over them (number of folds):\n"]
    for label, by_metric in by_label.items():
        differences = (f"{name} {format_gain(pool(means))} ({len(means)})" for name, means in by_metric.items())
        lines.append(f"- {label}: {'; '.join(differences)}")
    return "\n".join(lines) + "\n"


def _object_bootstrap(rows: list[Row], results: Results) -> str:
    pools = pool_objects(rows, results)
    lines = [
        "k-NN over all folds and seeds, with the interval of a bootstrap over source objects; near-duplicates count as one "
        "object. The interval is for these encoders: it does not include the variation between trainings.\n"
    ]
    for label, counts in pools.items():
        if label.endswith(BRANCH):
            mean, low, high = bootstrap(counts, pools[label.removesuffix(BRANCH)])
            lines.append(f"- {label}: {mean:+.1f} points [{low:+.1f}, {high:+.1f}], {len(counts)} objects")
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documentation")
    parser.add_argument("--no-plots", action="store_true", help="write only the text; needs no matplotlib")
    args = parser.parse_args()
    presets = [preset for preset in PRESETS.values() if preset.packages]
    try:
        if not any((args.results / preset.name).is_dir() for preset in presets):
            raise UserError(f"--results {args.results} holds no results; experiments.run writes them")
        if not args.docs.is_dir():
            raise UserError(f"--docs {args.docs} is not a folder")
        if not args.no_plots and find_spec("matplotlib") is None:
            raise UserError("plots need matplotlib: pip install 'repre[dev]', or write only the text with --no-plots")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    text = evidence_page(args.results, args.docs, presets=presets, plots=not args.no_plots)
    (args.docs / "evidence.md").write_text(text, encoding="utf-8")
    print(f"written to {args.docs / 'evidence.md'}")


if __name__ == "__main__":
    main()
