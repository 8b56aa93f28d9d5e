"""The page as a file: complete in itself, within its size, whole whatever the run lacks."""

import base64
import hashlib
import json
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from repre.errors import RunError, UserError
from repre.reporting import write_comparison, write_report
from tests.reporting import fake_run as make

VOID = {"img", "input", "meta", "br"}
SECTIONS = ["verdict", "curves", "reconstruction", "levels", "colors", "similarity", "neighbors", "evaluations", "time",
            "data", "configuration"]  # fmt: skip


class Outline(HTMLParser):
    """Elements of a page; fails where one is closed that was not open."""

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


def sections(found: Outline) -> list[str | None]:
    return [attributes["id"] for name, attributes in found.elements if name == "section"]


def data_of(path: Path) -> dict[str, object]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text.partition('id="report-data">')[2].partition("</script>")[0])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = make.make_run(tmp_path / "a")
    make.add_alarm(path)
    make.add_evaluation(path)
    return path


def test_a_whole_run_has_every_section(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    found = outline(path)
    assert sections(found) == SECTIONS
    words = " ".join(found.text)
    for expected in (
        "It learned, with 1 alarm to look at",
        "all images look alike",
        "lower optim.lr",
        "optim.lr",
        "0.001",
    ):
        assert expected in words
    assert "\u2014" not in words
    anchors = {a["href"] for name, a in found.elements if name == "a"}
    assert {f"#{section}" for section in SECTIONS} <= anchors


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    one, other = (write_report(run, tmp_path / "out" / name) for name in ("1.html", "2.html"))
    assert one.read_bytes() == other.read_bytes()


def test_nothing_is_asked_of_a_network_and_the_policy_names_what_is_there(run: Path) -> None:
    path = write_report(run)
    text, found = path.read_text(encoding="utf-8"), outline(path)
    for name, attributes in found.elements:
        assert name not in ("link", "iframe", "object", "embed", "base")
        assert not {"src", "srcset", "style", "action"} & set(attributes)
        assert not any(key.startswith("on") for key in attributes)
    policy = next(a["content"] for n, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for element in ("style", "script"):
        inner = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        assert inner is not None
        digest = base64.b64encode(hashlib.sha256(inner[1].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


def test_hostile_names_stay_text(run: Path) -> None:
    (run / "unreadable.txt").write_text(f"{make.HOSTILE}\t{make.CLOSING}\n" * 3, encoding="utf-8")
    make.add_alarm(run, monitor=make.CLOSING, cause=make.HOSTILE, fix=make.CLOSING)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 210, make.CLOSING: 1.0, make.HOSTILE: 2.0}) + "\n")
    config = {"data": make.HOSTILE, "encoder": {"name": make.CLOSING}, make.HOSTILE: make.CLOSING}
    (run / "config.yaml").write_text(json.dumps(config))
    hostile = run.rename(run.parent / "<b onclick=x>")
    (hostile / "environment.json").write_text(json.dumps({make.CLOSING: make.HOSTILE}))
    found = outline(write_report(hostile))
    assert [name for name, _ in found.elements].count("script") == 2
    assert not any("onerror" in attributes for _, attributes in found.elements)
    assert " ".join(found.text).count(make.HOSTILE) >= 6


@pytest.mark.parametrize(
    ("lost", "section"),
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
def test_what_is_missing_is_left_out_with_a_word(run: Path, lost: str, section: str | None) -> None:
    shutil.rmtree(run / lost) if (run / lost).is_dir() else (run / lost).unlink()
    if lost == "metrics.jsonl":
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"validations": []}))
    found = outline(write_report(run))
    assert (section in sections(found)) is False
    assert ("left-out" in sections(found)) == (section is not None)


def test_a_folder_with_a_config_alone_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: 0\n")
    found = outline(write_report(tmp_path / "a"))
    assert sections(found) == ["verdict", "data", "configuration", "left-out"]
    assert "Not finished. So far: cannot tell" in " ".join(found.text)


@pytest.mark.parametrize("content", ["{}", '{"validations": 3, "knn": [], "seconds": "x", "alarms": {}, "balance": 1}'])
def test_a_summary_of_other_types_is_no_trouble(run: Path, content: str) -> None:
    (run / "summary.json").write_text(content)
    assert "verdict" in sections(outline(write_report(run)))


def test_the_page_keeps_its_limit(run: Path) -> None:
    make.add_snapshots(run, side=256, noise=True)
    whole = write_report(run).stat().st_size
    assert whole > 1_500_000
    pictures = []
    for limit in (whole, 1_400_000, 900_000, 400_000, 150_000):
        path = write_report(run, limit=limit)
        assert path.stat().st_size <= limit
        pictures.append(len(data_of(path)["pictures"]))  # type: ignore[arg-type]
        assert ("To stay within the size" in " ".join(outline(path).text)) == (limit < whole)
    assert pictures == sorted(pictures, reverse=True)
    assert pictures[-1] == 0
    with pytest.raises(RunError, match="even without pictures"):
        write_report(run, limit=10_000)


def test_a_place_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        write_report(run, tmp_path / "file" / "report.html")


# ------------------------------------------------------------------------------------------------- evaluations


def test_gains_stand_in_the_tables(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    make.add_evaluation(run, seed=1, value=0.52)
    for seed in (0, 1):
        make.add_evaluation(run.parent / "evaluations" / "random-a", start="random:a", seed=seed, value=0.4)
    for path in (run.parent / "evaluations" / "random-a" / "evaluations").iterdir():
        path.rename(path.parent.parent / path.name)
    make.add_comparison(run.parent / "compared", start=str(run))
    words = " ".join(outline(write_report(Path("a"))).text)
    assert "+10.00 ± 2.00" in words
    assert "51.0\u2009% ± 1.4\u2009%" in words
    assert "+11.00 (2 seeds)" in words


# -------------------------------------------------------------------------------------------- several runs


def test_runs_side_by_side(tmp_path: Path) -> None:
    runs = [
        make.make_run(tmp_path / name, seed=seed, knn=(0.2, last))
        for name, seed, last in (("a", 0, 0.6), ("b", 1, 0.2))
    ]
    make.add_comparison(tmp_path / "out", start=str(runs[0]))
    path = write_comparison(runs, tmp_path / "out" / "report.html")
    found = outline(path)
    assert sections(found) == [
        "verdict",
        "curves",
        "settings",
        "reconstruction",
        "colors",
        "similarity",
        "evaluations",
    ]
    words = " ".join(found.text)
    assert "1 of 7 settings differ." in words
    assert "It learned." in words
    assert "It trained; the probe shows no clear change." in words
    assert words.count("+10.00 ± 2.00") == 1
    charts = data_of(path)["charts"]
    assert all([line["name"] for line in one["series"]] == ["a", "b"] for one in charts)  # type: ignore[attr-defined]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make.make_run(tmp_path / folder / "run") for folder in ("x", "y")]
    words = " ".join(outline(write_comparison(runs, tmp_path / "out.html")).text)
    assert "x/run" in words
    assert "y/run" in words
    assert "0 of 7 settings differ." in words


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two runs"):
        write_comparison([make.make_run(tmp_path / "a")], tmp_path / "out.html")


def test_runs_without_anything_in_common(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("seed: 3\n")
    path = write_comparison([tmp_path / "empty", make.make_run(tmp_path / "a")], tmp_path / "out.html")
    assert "verdict" in sections(outline(path))


# --------------------------------------------------------------------------------------------------- odd values

ODD = [None, True, -1, 3.5, float("nan"), float("inf"), 10**400, "", "x", "<b>", [], [1], {}, {"a": {"b": [1]}}]


def spoiled(value: object, rng: random.Random) -> object:
    """Plain values, some of them replaced by others or left out."""
    if rng.random() < 0.12:
        return rng.choice(ODD)
    if isinstance(value, dict):
        return {key: spoiled(item, rng) for key, item in value.items() if rng.random() > 0.05}
    return [spoiled(item, rng) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(12))
def test_files_of_odd_values_are_no_trouble(run: Path, seed: int) -> None:
    rng = random.Random(seed)
    make.add_comparison(run / "compared", start=str(run))
    for name in ("summary.json", "environment.json", "compared/compare.json", "evaluations/knn-0.json"):
        path = run / name
        path.write_text(json.dumps(spoiled(json.loads(path.read_text()), rng)))
    for name in ("metrics.jsonl", "alarms.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
        (run / name).write_text("".join(json.dumps(spoiled(row, rng)) + "\n" for row in rows))
    (run / "config.yaml").write_text(json.dumps(spoiled({"data": "x", "encoder": {"name": "y"}, "epochs": 3}, rng)))
    assert "verdict" in sections(outline(write_report(run)))
    assert "verdict" in sections(outline(write_comparison([run, run], run.parent / "out.html")))
