"""timm models by name: what does not exist or cannot serve is refused with the reason."""

import pytest
import timm
from torch import nn

from repre.errors import UserError
from repre.models.timm_model import create_meta_model, create_timm_model, published_statistics


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_smal_patch16_224", "no model 'vit_smal_patch16_224'; did you mean 'vit_small_patch16_224'"),
        ("xyzzy", r"no model 'xyzzy'; see timm.list_models\(\)"),
        ("vit_small_patch16_224.augreg_in1", "no weights 'augreg_in1'.*did you mean 'augreg_in1k'"),
        ("vit_small_patch16_224.xyzzy", "no weights 'xyzzy' for vit_small_patch16_224; it has .*augreg_in1k"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_meta_model(name)


def test_a_model_without_intermediate_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: nn.Linear(1, 1))
    message = r"no intermediate features .*forward_intermediates, forward_head, feature_info"
    create_meta_model.cache_clear()
    with pytest.raises(UserError, match=message):
        create_meta_model("resnet18")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("no route to host"), r"could not be downloaded \(no route to host\); connect"),
        (RuntimeError("size mismatch"), "with the hub's weights: size mismatch; use the published architecture"),
    ],
)
def test_a_failed_download_is_told_from_a_refusal(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=message):
        create_timm_model("resnet18", {}, pretrained=True)


def test_published_statistics_are_those_of_the_weights() -> None:
    assert published_statistics("vit_small_patch16_224.augreg_in1k") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert published_statistics("resnet18.a1_in1k") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
