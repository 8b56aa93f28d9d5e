"""How metrics are written: shares in percent, others with their unit; and which are better when lower."""

import pytest

from repre.evaluation.comparison import build_rows
from repre.evaluation.comparison_tables import markdown
from repre.evaluation.metric_units import describe_value, is_share, metric_kind
from repre.reporting.evaluation_section import gain, mean_and_deviation


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("delta1", 0.71234, "71.23 %"),
        ("rmse", 0.54321, "0.5432 m"),
        ("rmse@0.1", 12.3456, "12.35 m"),
        ("abs_rel", 0.115, "0.115"),
    ],
)
def test_values_have_their_units(name: str, value: float, text: str) -> None:
    assert describe_value(name, value) == text
    assert is_share(name) == (metric_kind(name) is None) == text.endswith("%")


def test_tables_write_meters_as_meters_and_take_less_for_better() -> None:
    def results(delta: float, rmse: float) -> list[dict[str, object]]:
        metrics = [{"delta1": delta + step, "rmse": rmse + step} for step in (0.0, 0.01)]
        return [{"metrics": row, "main": "delta1", "higher_is_better": True, "seconds": 60.0} for row in metrics]

    found = {("depth", "runs/a"): results(0.8, 0.5), ("depth", "random:a"): results(0.5, 1.25)}
    found["depth", "random:a"][1]["metrics"] = {"delta1": 0.512, "rmse": 1.2601}  # the seeds change the differences
    rows = build_rows(found, random="random:a", supervised=None)
    verdicts = {row.metric: row.over_random.verdict for row in rows if row.over_random}
    assert verdicts == {"delta1": "better", "rmse": "better"}
    table = markdown(rows, seeds=2)
    assert "| depth | rmse (m) | runs/a | 0.51 ± 0.01 | -0.75005 ± 0.00064 |" in table
    assert "| depth | delta1 | runs/a | 80.50 ± 0.71 |" in table
    assert "Values without a unit are in percent" in table


def test_the_report_writes_meters_as_meters() -> None:
    assert mean_and_deviation(0.5, 0.25, "rmse") == "0.5 m ± 0.25 m"
    assert mean_and_deviation(0.5, None, "delta1") == "50.0\u2009%"
    assert mean_and_deviation(None, None, "rmse") == "–"
    over = {"mean": -0.75, "half": 0.1, "verdict": "better"}
    assert gain(over, "rmse") == {"text": "-0.75 ± 0.10", "verdict": "better"}
    assert gain(over, "miou") == {"text": "-75.00 ± 10.00", "verdict": "better"}
