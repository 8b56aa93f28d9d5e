"""Writes docs/evidence.md, its pictures, and the numbers that other documents quote, from the stored results.

python -m experiments.tables
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.machine import describe_machine

from experiments.all_presets import PRESETS
from experiments.analysis import Entry, Results, bootstrap, pool_objects, without_fold
from experiments.answer import figures, picture_rows, sentences
from experiments.claims import claim_table, claims
from experiments.comparisons import (
    BRANCH,
    MIN_CHANGE,
    MIN_GAIN,
    SHARE,
    Study,
    data_and_setting,
    format_gain,
    load_study,
    pool,
    primary_metric,
    small_data_comparisons,
    without_all_labels,
)
from experiments.evidence_text import CAPTION, CLAIMS, DEFINITIONS, DETAILS, INTRODUCTION, NOTES, WHY_FOREGROUND
from experiments.methods import TITLES, Row, tasks
from experiments.presets import Preset
from experiments.quotes import write_figures
from experiments.run import RESULTS
from repre.errors import UserError

DOCS = Path(__file__).parents[1] / "docs"
PICTURE = "images/evidence.png"


def evidence_page(
    results: Path, docs: Path, *, presets: list[Preset], plots: bool = True
) -> tuple[str, dict[str, str]]:
    """Returns the page and the numbers that other documents quote; writes the page's pictures into docs/images.

    Args:
        results: folder of the results of all presets.
        docs: folder of the documentation.
        plots: whether to draw pictures.
    """
    studies = [load_study(results, preset) for preset in presets]
    measured, extra = [study for study in studies if study.results], small_data_comparisons(results)
    lines = claims(measured, extra)
    parts = [INTRODUCTION, *(f"{text}\n" for text in sentences(measured, extra, lines).values())]
    if plots:
        from experiments.plots import plot_answer, save

        if save(plot_answer(picture_rows(measured, extra)), docs / PICTURE, dpi=230):
            parts += [f"![Differences by data set, framework and metric]({PICTURE})\n", CAPTION]
    parts += [CLAIMS, claim_table(lines), DETAILS, folded("Data, metrics, intervals, how to reproduce", DEFINITIONS)]
    parts += [_section(study, docs, plots=plots) for study in studies]
    return "\n".join(parts).rstrip() + "\n", figures(measured, extra, lines)


def folded(title: str, text: str) -> str:
    """Returns text that is folded below a title."""
    return f'<details markdown="1">\n<summary>{title}</summary>\n\n{text}\n</details>\n'


def _section(study: Study, docs: Path, *, plots: bool) -> str:
    """Everything about a preset, folded."""
    preset, all_tasks = study.preset, tasks(study.rows)
    done = sum((task.method.name, task.seed, task.evaluation) in study.results for task in all_tasks)
    parts = [_about(preset, study.results)]
    for failure in study.failures:
        parts.append(f"Failed: {failure['method']}, seed {failure['seed']}: {failure['failure']}.\n")
    for table, title in TITLES.items():
        rows = [row for row in study.rows if row.table == table]
        if rows and study.results:
            note = [f"{NOTES[table]}\n"] if table in NOTES else []
            parts += [f"### {title}\n", *note, _table(study, table, rows, docs, plots=plots)]
    return folded(f"Preset {preset.name}: {done} of {len(all_tasks)} results are measured", "\n".join(parts))


def _about(preset: Preset, results: Results) -> str:
    """Sizes of a preset, and the machines."""
    encoders = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in config.model_args.items())}"
        for name, config in preset.encoders.items()
    )
    sizes = "; ".join(
        f"{kind}: {each.train} images x {each.epochs} epochs, {each.labeled} with labels, {each.test} to test on"
        for kind, each in preset.sets.items()
    )
    if not sizes:
        sizes = (
            f"{preset.images} images x {preset.epochs} epochs; heads are trained on {preset.labeled} images and tested on "
            f"{preset.test}{_articles(preset)}"
        )
    why = WHY_FOREGROUND if preset.primary == "foreground" else ""
    lines = [
        f"{preset.size} px, batch size {preset.batch_size}, {preset.precision}. {sizes}. {encoders}. Primary metric: "
        f"{primary_metric(preset)}{why}.\n"
    ]
    if results:
        lines += ["Measured on:\n", *_machines(results), ""]
    else:
        lines.append(f"Not measured yet: `python -m experiments.run --preset {preset.name}`.\n")
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


def _table(study: Study, table: str, rows: list[Row], docs: Path, *, plots: bool) -> str:
    """One table with its plot and the number of what is missing."""
    entries, preset = study.tables[table], study.preset
    if not any(entry.values for entry in entries):
        return f"Not measured yet: `python -m experiments.run --preset {preset.name} --only {table}`.\n"
    parts = []
    if "confirmatory" in table:
        parts.append(seed_table(entries))
    if table == "confirmatory":
        parts.append(verdicts(entries, primary=primary_metric(preset)))
    if table == "stamps":
        parts += [pooled_folds(entries), _object_bootstrap(rows, study.results)]
    if plots:
        from experiments.plots import save_plot

        path = docs / "images" / f"evidence-{preset.name}-{table}.png"
        shown = variants(entries, preset) if table == "harm" else entries
        if save_plot(shown, path, curves=table in ("4", "camvid", "ends")):
            parts.append(f"![{TITLES[table]}]({path.relative_to(docs).as_posix()})\n")
    if "confirmatory" not in table:
        parts += [*mean_tables(table, entries), folded("Every seed", seed_table(entries))]
    missing = sum(len(entry.values) < entry.row.n_seeds for entry in entries)
    if missing:
        parts.append(f"{missing} of {len(entries)} values are not measured, or not at all seeds.\n")
    return "\n".join(parts)


def variants(entries: list[Entry], preset: Preset) -> list[Entry]:
    """Returns the entries of the table of variants for its plot: a row per variant, a panel per data set and metric.

    Metrics with few labels and gradients are left out.
    """
    shown = []
    for entry in entries:
        data, name = data_and_setting(entry.row)
        metric = without_all_labels(entry.metric, preset)
        if entry.gain is not None and "patch" not in metric and not SHARE.search(metric):
            row = replace(entry.row, label=name, baseline="plain")
            shown.append(replace(entry, row=row, metric=f"{data}\n{metric}"))
    return shown


def mean_tables(table: str, entries: list[Entry]) -> list[str]:
    """Returns the means of a table; of the table of variants, one for every data set, because their metrics differ."""
    by_data: dict[str, list[Entry]] = {}
    for entry in entries:
        by_data.setdefault(data_and_setting(entry.row)[0] if table == "harm" else "", []).append(entry)
    return [mean_table(group) for group in by_data.values() if any(entry.values for entry in group)]


def mean_table(entries: list[Entry]) -> str:
    """Returns a table of means. The difference is at equal seeds, because means over different seeds are not comparable."""
    measured = [entry for entry in entries if entry.values]
    return markdown_table("mean (seeds), difference at equal seeds", measured, _format_mean)


def markdown_table(corner: str, entries: Sequence[Entry], cell: Callable[[Entry], str]) -> str:
    """Returns a table with a row per method and a column per metric; a dash where there is no entry.

    Args:
        corner: text of the upper left cell.
        cell: text of an entry's cell.
    """
    by_cell = {(entry.row.label, entry.metric): entry for entry in entries}
    metrics = list(dict.fromkeys(entry.metric for entry in entries))
    lines = [f"| {corner} | {' | '.join(metrics)} |", f"|---|{'---|' * len(metrics)}"]
    for label in dict.fromkeys(entry.row.label for entry in entries):
        cells = (cell(by_cell[label, metric]) if (label, metric) in by_cell else "–" for metric in metrics)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _format_mean(entry: Entry) -> str:
    return f"{entry.mean:.1f} ({len(entry.values)})" + (f", {entry.gain.mean:+.1f}" if entry.gain else "")


def seed_table(entries: list[Entry]) -> str:
    """Returns a table with the value of every seed, a dash where only other methods have one."""
    seeds = sorted({seed for entry in entries for seed in entry.values})
    lines = ["| metric | method | by seed | mean | against | difference |", "|---|---|---|---|---|---|"]
    for entry in entries:
        if entry.values:
            by_seed = " ".join(f"{entry.values[seed]:.1f}" if seed in entry.values else "–" for seed in seeds)
            baseline, difference = entry.row.baseline or "", _format_verdict(entry)
            lines.append(
                f"| {entry.metric} | {entry.row.label} | {by_seed} | {entry.mean:.1f} | {baseline} | {difference} |"
            )
    return "\n".join(lines) + "\n"


def _format_verdict(entry: Entry) -> str:
    """The difference of an entry and whether it is better, worse or none; empty without a difference."""
    if entry.gain is None:
        return ""
    text = format_gain(entry.gain) + (" †" if entry.mixed else "")
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
    text, numbers = evidence_page(args.results, args.docs, presets=presets, plots=not args.no_plots)
    try:
        pages = write_figures(args.docs, numbers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    (args.docs / "evidence.md").write_text(text, encoding="utf-8")
    print(
        f"written to {args.docs / 'evidence.md'}; numbers filled in {', '.join(page.name for page in pages) or 'no page'}"
    )


if __name__ == "__main__":
    main()
