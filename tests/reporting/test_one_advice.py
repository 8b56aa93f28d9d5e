"""A page that has evidence for a higher and for a lower value of a setting advises one of them."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from repre.reporting import write_report
from repre.reporting.next_steps import raise_lr
from repre.reporting.run_data import RunData, read_run
from repre.reporting.verdict import judge
from tests.reporting import fake_run
from tests.reporting.test_page import outline


def advised(run: Path, option: str) -> set[str]:
    """The values that the page of a run advises for an option."""
    return set(re.findall(rf"repre pretrain [^\n]*{re.escape(option)} (\S+)", text_of(run)))


def text_of(run: Path) -> str:
    return "".join(outline(write_report(run)).text)


def made(path: Path, alarms: tuple[str, ...], *, lr: float = 1e-5, **changes: Any) -> Path:
    run = fake_run.make_run(path, **changes)
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"optim": {"lr": lr}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for monitor in alarms:
        fake_run.add_alarm(run, monitor=monitor, value=0.01, fix=f"the fix of {monitor}")
    return run


@pytest.mark.parametrize(
    ("alarms", "changes", "lr"),
    [
        ((), {"falls": False}, "3e-5"),  # flat losses alone
        (("psnr",), {"falls": False}, "3e-5"),  # beside a weaker sign of the opposite
        (("level_similarity_0_1", "update_size"), {"falls": False}, "3e-6"),  # an unstable run decides
        (("level_similarity_0_1",), {"spread": 0.01, "falls": False}, "3e-6"),  # collapse decides
        ((), {"falls": False, "knn": (0.6, 0.2)}, "3e-6"),  # of equal evidence the lower rate
    ],
)
def test_one_learning_rate(alarms: tuple[str, ...], changes: dict[str, Any], lr: str, tmp_path: Path) -> None:
    assert advised(made(tmp_path / "a", alarms, **changes), "--optim.lr") == {lr}


def test_one_weight_of_the_branch(tmp_path: Path) -> None:
    run = made(tmp_path / "a", ("gradient_cosine_1", "gradient_ratio"))
    assert advised(run, "--reconstruction.weight") == {"0.5"}


def test_a_fix_that_stronger_evidence_overrules_is_not_shown(tmp_path: Path) -> None:
    text = text_of(made(tmp_path / "a", ("level_similarity_0_1", "update_size")))
    assert "the fix of update_size" in text
    assert "the fix of level_similarity_0_1" not in text
    assert "Stronger evidence on this page decides: start again with --optim.lr 3e-6." in text


def test_the_same_learning_rate_is_never_advised_again(tmp_path: Path) -> None:
    """At the highest rate of the papers the advice is another one."""
    run = RunData(path=tmp_path / "a", name="a", config={"optim": {"lr": 0.1}, "epochs": 3})
    words = shlex.split(raise_lr(run).command)
    assert "--optim.lr" not in words
    assert words[words.index("--epochs") + 1] == "12"


def test_an_inert_branch_gets_ten_times_the_weight_as_its_alarm_says(tmp_path: Path) -> None:
    assert advised(made(tmp_path / "a", ("gradient_ratio",)), "--reconstruction.weight") == {"10"}


def test_every_step_of_the_verdict_is_the_decided_one(tmp_path: Path) -> None:
    verdict = judge(read_run(made(tmp_path / "a", ("update_size",), knn=(0.6, 0.2), falls=False)))
    assert verdict.next_steps[0] == verdict.decided["--optim.lr"]
