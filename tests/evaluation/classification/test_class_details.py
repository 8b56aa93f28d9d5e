"""What is told of the classes of a classification."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.errors import UserError
from repre.evaluation.classification.class_details import class_details
from repre.evaluation.classification.finetune import FinetuneConfig
from repre.evaluation.classification.knn import KNNConfig, run
from repre.evaluation.classification.linear import LinearConfig
from repre.evaluation.metrics import balanced_accuracy
from repre.evaluation.result import definition
from tests.data.labels.label_files import save_image
from tests.evaluation.tiny_eval import on_cpu, tiny_resolved


def unbalanced(root: Path) -> LabeledSplits:
    """Of five test images, four are of a; b has one, c has none."""
    text = "path,label,split\n"
    for number, (label, split) in enumerate(zip("aaabcaaaab", ["train"] * 5 + ["test"] * 5)):
        save_image(root / f"{number}.png", np.full((20, 20, 3), 20 * number, np.uint8))
        text += f"{number}.png,{label},{split}\n"
    (root / "t.csv").write_text(text)
    return open_labeled(f"csv:{root / 't.csv'}")


def test_the_mean_over_classes_and_the_majority_stand_beside_the_accuracy(tmp_path: Path) -> None:
    splits = unbalanced(tmp_path)
    details = class_details(torch.eye(3)[[0, 0, 0, 0, 0]], torch.from_numpy(splits.test.targets), splits)
    assert details == {
        "per_class": {"a": 1.0, "b": 0.0, "c": None},
        "balanced_accuracy": 0.5,
        "majority_class": {"name": "a", "share": 0.8},
    }
    assert math.isclose(balanced_accuracy({"x": 0.2, "y": 0.7, "z": None}), 0.45)


def test_an_evaluation_tells_which_classes_have_no_test_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unbalanced(tmp_path)
    result = run(tiny_resolved(), KNNConfig(data=f"csv:{tmp_path / 't.csv'}", k=(1,), runtime=on_cpu(tmp_path)))
    note = "1 of 3 classes have no test image, and no metric of their own: c"
    assert capsys.readouterr().out.count(note) == 1
    assert result.details["notes"] == [note]
    assert result.details["majority_class"] == {"name": "a", "share": 0.8}


@pytest.mark.parametrize("config", [KNNConfig, LinearConfig, FinetuneConfig])
def test_doubtful_labels_are_confirmed_by_an_option_that_changes_no_identity(config: type, tmp_path: Path) -> None:
    for name in ("cat", "Cat", "dog"):
        for number in range(2):
            save_image(tmp_path / name / f"{number}.png")
    resolved = tiny_resolved()
    asked, accepted = (config(data=str(tmp_path), accept_labels=accept) for accept in (False, True))
    assert definition("x", resolved, asked) == definition("x", resolved, accepted)
    if config is KNNConfig:
        with pytest.raises(UserError, match=r"'Cat', 'cat' differ only in case.*--accept-labels"):
            run(resolved, asked)
        quick = KNNConfig(data=str(tmp_path), accept_labels=True, k=(1,), runtime=on_cpu(tmp_path / "cache"))
        assert set(run(resolved, quick).details["per_class"]) == {"cat", "Cat", "dog"}
