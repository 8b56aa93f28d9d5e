"""Options of before the first release are answered by their new names."""

import pytest

from repre.cli.old_options import refuse_old_options
from repre.errors import UserError
from repre.renamed_settings import REMOVED, RENAMED
from tests.cli.conftest import Repre


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pretrain --optim.clip 1", "--optim.clip: optim.clip is now called optim.clip_grad_norm"),
        ("pretrain vit-tiny-dino --optim.lr-end=0", "--optim.lr-end: optim.lr_end is now called optim.min_lr"),
        ("pretrain --optim.lr_end 0", "--optim.lr_end: optim.lr_end is now called optim.min_lr"),
        ("pretrain --optim.kind lars", "--optim.kind: optim.kind no longer exists: AdamW is the only optimizer"),
        ("plan --encoder.levels 1 2", "--encoder.levels: encoder.levels is now called encoder.out_indices"),
        ("pretrain --views.first.grey 0.2", "views.first.grey is now called views.first.grayscale"),
        (
            "pretrain --framework.no-norm-prototypes",
            "framework.norm_prototypes is now called framework.norm_last_layer",
        ),
        (
            "pretrain --no-framework.norm-prototypes",
            "framework.norm_prototypes is now called framework.norm_last_layer",
        ),
        ("eval linear --encoder a --enlarge 1.1", "--enlarge: enlarge no longer exists: crop_pct is its inverse"),
        ("eval segment --encoder a --fit.clip 1", "--fit.clip: fit.clip is now called fit.clip_grad_norm"),
        ("compare a --eval segment --segment.fit.clip 1", "fit.clip is now called fit.clip_grad_norm"),
        ("compare a --eval knn --knn.enlarge 1", "--knn.enlarge: enlarge no longer exists"),
    ],
)
def test_an_old_option_gets_its_new_name(command: str, message: str, repre: Repre) -> None:
    code, out, err = repre(*command.split())
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("setting", [*RENAMED, *REMOVED])
def test_every_old_setting_is_known(setting: str) -> None:
    for option in (setting, setting.replace("_", "-")):
        with pytest.raises(UserError):
            refuse_old_options([f"--{option}", "1"])


def test_new_options_and_values_pass() -> None:
    refuse_old_options(["vit-tiny-dino", "--out", "optim.clip", "--framework.out-dim", "8", "--optim.clip-grad-norm=1"])
