"""The page as a file: self-contained, within its size limit, and written whatever the run does not have."""

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from repre.errors import RunError, UserError
from repre.reporting import write_comparison, write_report
from tests.reporting import fake_run

VOID = {"img", "input", "meta", "br"}
SECTIONS = ["verdict", "curves", "reconstruction", "levels", "colors", "similarity", "neighbors", "evaluations", "time",
            "data", "configuration"]  # fmt: skip


class Outline(HTMLParser):
    """The elements and the text of a page; every element has to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(text)


def outline(path: Path) -> Outline:
    return Outline(path.read_text(encoding="utf-8"))


def sections(page: Outline) -> list[str | None]:
    return [attributes["id"] for name, attributes in page.elements if name == "section"]


def data_of(path: Path) -> dict[str, object]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text.partition('id="report-data">')[2].partition("</script>")[0])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = fake_run.make_run(tmp_path / "a")
    fake_run.add_alarm(path)
    fake_run.add_evaluation(path)
    return path


def test_a_complete_run_has_every_section(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = outline(path)
    assert sections(page) == SECTIONS
    text = " ".join(page.text)
    for expected in (
        "It learned, with 1 alarm to check",
        "all images look alike",
        "lower optim.lr",
        "optim.lr",
        "0.001",
    ):
        assert expected in text
    assert "\u2014" not in text
    anchors = {a["href"] for name, a in page.elements if name == "a"}
    assert {f"#{section}" for section in SECTIONS} <= anchors


def test_gray_reconstructions_are_explained(run: Path) -> None:
    """Views of random hue and a clean target; with one setting changed the decoder can know the colors."""
    view = {"jitter": 1.0, "hue": 0.5}
    gray = {"views": {"target": "clean", "first": view, "second": view}}
    known: list[dict[str, Any]] = [
        {"views": gray["views"] | {"target": "view"}},
        {"views": gray["views"] | {"first": view | {"hue": 0.1}}, "reconstruction": {"views": "first"}},
        {"views": gray["views"] | {"second": view | {"jitter": 0.2}}},
        {"views": "none"},
        {"views": {"target": "clean", "first": None, "second": {"hue": "0.5"}}},
    ]
    config = yaml.safe_load((run / "config.yaml").read_text())
    for settings, is_gray in [(gray, True), *((each, False) for each in known)]:
        (run / "config.yaml").write_text(yaml.safe_dump(config | settings))
        assert ("gray on purpose" in " ".join(outline(write_report(run)).text)) == is_gray, settings


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first, second = (write_report(run, tmp_path / "out" / name) for name in ("1.html", "2.html"))
    assert first.read_bytes() == second.read_bytes()


def test_the_page_needs_no_network_and_its_policy_names_its_style_and_script(run: Path) -> None:
    path = write_report(run)
    text, page = path.read_text(encoding="utf-8"), outline(path)
    for name, attributes in page.elements:
        assert name not in ("link", "iframe", "object", "embed", "base")
        assert not {"src", "srcset", "style", "action"} & set(attributes)
        assert not any(key.startswith("on") for key in attributes)
    policy = next(a["content"] for n, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for element in ("style", "script"):
        inner = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        assert inner is not None
        digest = base64.b64encode(hashlib.sha256(inner[1].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


def test_hostile_names_stay_text(run: Path) -> None:
    (run / "unreadable.txt").write_text(f"{fake_run.HOSTILE}\t{fake_run.CLOSING}\n" * 3, encoding="utf-8")
    fake_run.add_alarm(run, monitor=fake_run.CLOSING, cause=fake_run.HOSTILE, fix=fake_run.CLOSING)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 210, fake_run.CLOSING: 1.0, fake_run.HOSTILE: 2.0}) + "\n")
    config = {"data": fake_run.HOSTILE, "encoder": {"name": fake_run.CLOSING}, fake_run.HOSTILE: fake_run.CLOSING}
    (run / "config.yaml").write_text(json.dumps(config))
    hostile = run.rename(run.parent / "<b onclick=x>")
    (hostile / "environment.json").write_text(json.dumps({fake_run.CLOSING: fake_run.HOSTILE}))
    page = outline(write_report(hostile))
    assert [name for name, _ in page.elements].count("script") == 2
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert " ".join(page.text).count(fake_run.HOSTILE) >= 6


@pytest.mark.parametrize(
    ("missing", "section"),
    [
        ("metrics.jsonl", "curves"),
        ("panel", "reconstruction"),
        ("snapshots", "similarity"),
        ("evaluations", "evaluations"),
        ("summary.json", None),
        ("config.yaml", None),
        ("environment.json", None),
        ("unreadable.txt", None),
    ],
)
def test_what_is_missing_is_left_out_with_a_reason(run: Path, missing: str, section: str | None) -> None:
    shutil.rmtree(run / missing) if (run / missing).is_dir() else (run / missing).unlink()
    if missing == "metrics.jsonl":
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"validations": []}))
    page = outline(write_report(run))
    assert (section in sections(page)) is False
    assert ("left-out" in sections(page)) == (section is not None)


def test_a_run_with_only_a_config_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: 0\n")
    page = outline(write_report(tmp_path / "a"))
    assert sections(page) == ["verdict", "data", "configuration", "left-out"]
    assert "Not finished. So far: there is too little evidence to tell" in " ".join(page.text)


@pytest.mark.parametrize("content", ["{}", '{"validations": 3, "knn": [], "seconds": "x", "alarms": {}, "balance": 1}'])
def test_a_summary_of_other_types_is_accepted(run: Path, content: str) -> None:
    (run / "summary.json").write_text(content)
    assert "verdict" in sections(outline(write_report(run)))


@pytest.mark.slow
def test_the_page_keeps_its_size_limit(run: Path) -> None:
    fake_run.add_snapshots(run, side=256, noise=True)
    full = write_report(run).stat().st_size
    assert full > 1_500_000
    image_counts = []
    for limit in (full, 1_400_000, 900_000, 400_000, 150_000):
        path = write_report(run, max_bytes=limit)
        assert path.stat().st_size <= limit
        image_counts.append(len(data_of(path)["images"]))  # type: ignore[arg-type]
        assert ("To stay within the size limit" in " ".join(outline(path).text)) == (limit < full)
    assert image_counts == sorted(image_counts, reverse=True)
    assert image_counts[-1] == 0
    with pytest.raises(RunError, match="even without images"):
        write_report(run, max_bytes=10_000)


def test_a_path_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report to"):
        write_report(run, tmp_path / "file" / "report.html")


def test_time_is_split_into_phases(run: Path) -> None:
    """The summary's seconds include every validation but the first and the last."""
    summary = json.loads((run / "summary.json").read_text())
    for row in summary["validations"]:
        row |= {"validation_seconds": 20.0, "probe_seconds": 10.0}
    (run / "summary.json").write_text(json.dumps(summary))
    text = " ".join(outline(write_report(run)).text)
    for phase in (
        "training: 5\u2009min (63.0\u2009%)",
        "waiting for data: 20\u2009s",
        "validation: 2\u2009min",
        "probes: 50\u2009s",
    ):
        assert phase in text


def test_reports_are_written_without_torch(run: Path) -> None:
    script = f"""
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm"):
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, NoTorch())
from pathlib import Path
from repre.reporting import write_comparison, write_report

run = Path({str(run)!r})
write_report(run)
write_comparison([run, run], run / "both.html")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert sections(outline(run / "report.html")) == SECTIONS
    assert "glance" in sections(outline(run / "both.html"))


# ------------------------------------------------------------------------------------------------- evaluations


def test_gains_are_in_the_tables_whatever_the_working_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run.add_evaluation(run, seed=1, value=0.52)
    for seed in (0, 1):
        fake_run.add_evaluation(run / "random", start="random:a", seed=seed, value=0.4)
    (run / "random" / "evaluations").rename(run / "evaluations" / "random-init")
    fake_run.add_comparison(run.parent / "compared", start=str(run))
    (run.parent / "elsewhere").mkdir()
    monkeypatch.chdir(run.parent / "elsewhere")
    text = re.sub(r"\s+", " ", " ".join(outline(write_report(Path("../a"))).text))
    assert "+10.00 ± 2.00" in text
    assert "51.0 % ± 1.4 %" in text
    assert "+11.00 ± 12.71 2 pairs of seeds, no difference" in text


# -------------------------------------------------------------------------------------------- several runs


def test_runs_side_by_side(tmp_path: Path) -> None:
    runs = [
        fake_run.make_run(tmp_path / name, seed=seed, knn=(0.2, last))
        for name, seed, last in (("a", 0, 0.6), ("b", 1, 0.2))
    ]
    fake_run.add_comparison(tmp_path / "out", start=str(runs[0]))
    path = write_comparison(runs, tmp_path / "out" / "report.html")
    page = outline(path)
    assert sections(page) == [
        "glance",
        "settings",
        "curves",
        "reconstruction",
        "colors",
        "similarity",
        "evaluations",
    ]
    text = " ".join(page.text)
    assert "1 of 7 settings differ." in text
    assert "It learned." in text
    assert "It trained, but the probe shows no clear change." in text
    assert text.count("+10.00 ± 2.00") == 1
    charts = data_of(path)["charts"]
    assert all([line["name"] for line in chart["series"]] == ["a", "b"] for chart in charts)  # type: ignore[attr-defined]


def test_runs_of_one_name_get_distinct_names(tmp_path: Path) -> None:
    runs = [fake_run.make_run(tmp_path / folder / "run") for folder in ("x", "y")]
    text = " ".join(outline(write_comparison(runs, tmp_path / "out.html")).text)
    assert "x/run" in text
    assert "y/run" in text
    assert "0 of 7 settings differ." in text


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two runs"):
        write_comparison([fake_run.make_run(tmp_path / "a")], tmp_path / "out.html")


def test_runs_without_anything_in_common(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("seed: 3\n")
    path = write_comparison([tmp_path / "empty", fake_run.make_run(tmp_path / "a")], tmp_path / "out.html")
    assert "glance" in sections(outline(path))


# --------------------------------------------------------------------------------------------------- odd values

ODD = [None, True, -1, 3.5, float("nan"), float("inf"), 10**400, "", "x", "<b>", [], [1], {}, {"a": {"b": [1]}}]


def spoiled(value: object, rng: random.Random) -> object:
    """Replaces some plain values by others, or leaves them out."""
    if rng.random() < 0.12:
        return rng.choice(ODD)
    if isinstance(value, dict):
        return {key: spoiled(item, rng) for key, item in value.items() if rng.random() > 0.05}
    return [spoiled(item, rng) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(12))
def test_files_of_odd_values_are_accepted(run: Path, seed: int) -> None:
    rng = random.Random(seed)
    fake_run.add_comparison(run / "compared", start=str(run))
    for name in ("summary.json", "environment.json", "compared/compare.json", "evaluations/knn-0.json"):
        path = run / name
        path.write_text(json.dumps(spoiled(json.loads(path.read_text()), rng)))
    for name in ("metrics.jsonl", "alarms.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
        (run / name).write_text("".join(json.dumps(spoiled(row, rng)) + "\n" for row in rows))
    (run / "config.yaml").write_text(json.dumps(spoiled({"data": "x", "encoder": {"name": "y"}, "epochs": 3}, rng)))
    assert "verdict" in sections(outline(write_report(run)))
    assert "glance" in sections(outline(write_comparison([run, run], run.parent / "out.html")))


def test_the_map_of_a_runs_images_is_linked(tmp_path: Path) -> None:
    run = fake_run.make_run(tmp_path / "run")
    assert "Map of the images" not in write_report(run).read_text(encoding="utf-8")
    (run / "photos #1.map.html").write_text("a map")
    text = write_report(run).read_text(encoding="utf-8")
    assert '<a href="photos%20%231.map.html">photos #1.map.html</a>' in text
