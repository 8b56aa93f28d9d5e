"""Measurements that disagree are shown together with their numbers of images; the larger sample decides."""

from collections.abc import Sequence
from dataclasses import replace

from repre.errors import counted
from repre.evaluation.result_groups import group_results
from repre.reporting import next_steps
from repre.reporting.evaluated_weights import is_last
from repre.reporting.findings import Finding
from repre.reporting.measurements import (
    ABOUT,
    Measurement,
    differs,
    images_tested,
    measured_by,
    plain_data,
    probe_measurements,
)
from repre.reporting.run_data import RunData
from repre.reporting.titles import write_metric


def measurements(run: RunData) -> list[Measurement]:
    """The last value of every probe after step 0, and every stored evaluation of the run's last weights, mean over seeds."""
    found = probe_measurements(run)
    for group in group_results(run.evaluations):
        evaluation = str(group.first.get("evaluation"))
        if (about := measured_by(evaluation)) not in ABOUT or not is_last(run, group.first):
            continue
        config = group.first["config"] if isinstance(group.first.get("config"), dict) else {}
        seeds = f", mean of {counted(len(group.seeds), 'seed')}" if len(group.seeds) > 1 else ""
        source = f"repre eval {evaluation}{seeds}"
        images = images_tested(group.first)
        found.append(Measurement(about, group.mean, images, plain_data(config.get("data")), source))
    return found


def disagreements(run: RunData) -> list[Finding]:
    """Measurements of one thing on the same data that differ by more than chance, shown together."""
    findings = []
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements(run):
        groups.setdefault((measurement.about, measurement.data), []).append(measurement)
    for (about, data), group in groups.items():
        ordered = sorted(group, key=lambda one: -(one.images or 0))
        others = [one for one in ordered[1:] if one.images != ordered[0].images and differs(ordered[0], one)]
        if not others:
            continue
        words = " and ".join(one.in_words for one in [ordered[0], *others])
        text = f"On {data}: {words}. The larger sample decides: {write_metric(about, ordered[0].value)}."
        advice = next_steps.measure(run, probe=f"probe/{about}")
        findings.append(Finding("limit", f"{ABOUT[about]}: evaluations disagree", text, advice))
    return findings


def settle(findings: Sequence[Finding]) -> list[Finding]:
    """Lets the largest sample decide where findings about one thing contradict each other; the others become notes.

    Findings of equally many images, or of unknown numbers, stay as they are: nothing tells which is right.
    """
    settled = list(findings)
    for about in dict.fromkeys(finding.about for finding in findings if finding.about):
        group = [finding for finding in settled if finding.about == about and finding.kind in ("good", "bad")]
        if len({finding.kind for finding in group}) < 2:
            continue
        largest = max(group, key=lambda finding: finding.images or 0)
        rivals = [finding for finding in group if finding.kind != largest.kind]
        if any((rival.images or 0) >= (largest.images or 0) for rival in rivals):
            continue
        for rival in rivals:
            remark = (
                f"{_counted(rival)} Another evaluation has {largest.images} images and shows the opposite; it decides."
            )
            settled[settled.index(rival)] = replace(rival, kind="note", next=None, text=f"{rival.text} {remark}")
        texts = " ".join(f"Against it, with {rival.images or 'fewer'} images: {rival.title}." for rival in rivals)
        text = f"{largest.text} {_counted(largest)} {texts} The larger decides."
        settled[settled.index(largest)] = replace(largest, text=text)
    return settled


def _counted(finding: Finding) -> str:
    return f"Measured on {finding.images} images." if finding.images else "Measured on an unknown number of images."
