"""The curve of several checkpoints: order, table, chart."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from repre.evaluation.curve import Point, in_order, table, write_curve

POINTS = [
    Point("runs/a@epoch-0020", 20.0, 0.5),
    Point("random:<x>", None, 0.1),
    Point("runs/a@epoch-0010", 10.0, 0.4),
]
SVG = "{http://www.w3.org/2000/svg}"


def test_points_are_in_the_order_of_epochs() -> None:
    assert [point.epoch for point in in_order(POINTS)] == [None, 10.0, 20.0]
    assert [line.split() for line in table(POINTS, metric="knn20")] == [
        ["epoch", "knn20", "encoder"],
        ["-", "10.00", "%", "random:<x>"],
        ["10", "40.00", "%", "runs/a@epoch-0010"],
        ["20", "50.00", "%", "runs/a@epoch-0020"],
    ]


def test_a_metric_that_is_no_share_has_its_unit() -> None:
    assert table([Point("runs/a", 1.0, 0.5)], metric="rmse")[1].split() == ["1", "0.5", "m", "runs/a"]


def test_the_chart_rises_with_the_metric_and_draws_references_across(tmp_path: Path) -> None:
    write_curve(tmp_path / "curve.svg", POINTS, title="knn on <data>", metric="knn20")
    root = ET.parse(tmp_path / "curve.svg").getroot()
    first, second = root.findall(f"{SVG}circle")
    assert float(first.attrib["cx"]) < float(second.attrib["cx"])
    assert float(first.attrib["cy"]) > float(second.attrib["cy"])
    (reference,) = [line for line in root.findall(f"{SVG}line") if line.attrib["class"] == "reference"]
    assert float(reference.attrib["y1"]) > float(first.attrib["cy"])
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"knn on <data>: knn20", "random:<x>", "10", "20", "epoch"} <= set(texts)


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3], [-2.0, 150.0], [0.0, 0.0], [1e-9, 2e-9]])
def test_any_values_fit_the_chart(values: list[float], tmp_path: Path) -> None:
    points = [Point(f"e{number}", 5.0 * number, value) for number, value in enumerate(values)]
    write_curve(tmp_path / "curve.svg", points, title="t", metric="m")
    circles = ET.parse(tmp_path / "curve.svg").getroot().findall(f"{SVG}circle")
    assert len(circles) == len(values)
    assert all(39 <= float(circle.attrib["cy"]) <= 353 for circle in circles)


def test_runs_are_lines_of_their_own(tmp_path: Path) -> None:
    """One line through the points of two runs would be a curve that nothing measured."""
    points = [Point(f"{run}@{epoch}", epoch, 0.1 * epoch, run=run) for run in ("a", "b<") for epoch in (1.0, 2.0, 3.0)]
    write_curve(tmp_path / "curve.svg", points, title="t", metric="m")
    root = ET.parse(tmp_path / "curve.svg").getroot()
    lines = root.findall(f"{SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3]
    assert len({line.attrib["stroke"] for line in lines}) == 2
    assert {"a", "b<"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_the_same_weights_and_other_sizes_are_said() -> None:
    points = [
        Point("a@best", 1.0, 0.5, weights="a" * 64, size=[32, 32]),
        Point("a@last", 1.0, 0.5, weights="a" * 64, size=[32, 32]),
        Point("vit", None, 0.6, weights="hub", size=[224, 224]),
        Point("swin", None, 0.6, weights="hub", size=[224, 224]),
    ]
    text = "\n".join(table(points, metric="knn20"))
    assert "a@best and a@last are the same weights" in text
    assert text.count("same weights") == 1
    assert "images had different sizes in pixels" in text
