"""The detector as a model: a loss in training, boxes and masks in evaluation."""

import pytest
import torch

from repre.evaluation.detection.mask_rcnn import Detector, mask_rcnn
from repre.models.encoder import Encoder
from tests.tiny import ENCODERS

STATISTICS = {"mean": [0.5] * 3, "std": [0.25] * 3}


def detector(*, masks: bool = True, scales: tuple[float, float] = (1.0, 1.0)) -> Detector:
    torch.manual_seed(0)
    encoder = Encoder(ENCODERS["vit"])
    return mask_rcnn(encoder, classes=3, size=32, long_side=64, width=16, masks=masks, scales=scales, **STATISTICS)


@pytest.mark.parametrize("masks", [True, False])
def test_detections_are_in_the_pixels_of_every_image(masks: bool) -> None:
    model = detector(masks=masks).eval()
    images = [torch.rand(3, 40, 50), torch.rand(3, 70, 60)]
    with torch.no_grad():
        outputs = model(images)
    for image, output in zip(images, outputs):
        height, width = image.shape[1:]
        boxes = output["boxes"]
        assert 0 < len(boxes) == len(output["labels"]) == len(output["scores"]) <= 100
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        assert set(output["labels"].tolist()) <= {1, 2, 3}
        if masks:
            assert output["masks"].shape == (len(boxes), 1, height, width)
        else:
            assert "masks" not in output


def test_the_loss_reaches_every_part() -> None:
    model = detector().train()
    mask = torch.zeros(1, 40, 40, dtype=torch.uint8)
    mask[:, 5:30, 8:33] = 1
    target = {"boxes": torch.tensor([[8.0, 5.0, 33.0, 30.0]]), "labels": torch.tensor([2]), "masks": mask}
    loss = model([torch.rand(3, 40, 40)], [target])
    assert loss.ndim == 0
    loss.backward()
    assert model.encoder.model.patch_embed.proj.weight.grad.abs().sum() > 0
    for head in (model.network.rpn.head, model.network.roi_heads.box_head, model.network.roi_heads.mask_head):
        assert sum(float(p.grad.abs().sum()) for p in head.parameters() if p.grad is not None) > 0


def test_training_draws_the_short_side_and_testing_uses_the_size() -> None:
    sides = detector(scales=(0.5, 1.5)).network.transform.min_size
    assert (min(sides), max(sides), sides[-1]) == (16, 48, 32)
