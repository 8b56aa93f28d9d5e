"""What may be cut into pieces, and what is refused."""

import pytest
import torch

from repre.errors import UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.repre import ReconstructionConfig
from repre.training import step
from repre.training.step import validate_micro_batch
from tests import tiny

PLAIN = ReconstructionConfig()


def test_layer_normalization_may_be_cut() -> None:
    validate_micro_batch(Encoder(tiny.ENCODERS["vit"]), PLAIN, micro_batch=2)


def test_batch_normalization_and_dropout_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    normalized = Encoder(EncoderConfig(name="resnet18", image_size=32))
    validate_micro_batch(normalized, PLAIN, micro_batch=0)
    with pytest.raises(UserError, match=r"micro_batch.*model\.bn1.*normalizes over the batch"):
        validate_micro_batch(normalized, PLAIN, micro_batch=2)
    monkeypatch.setattr(step, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"several processes.*model\.bn1"):
        validate_micro_batch(normalized, PLAIN, micro_batch=0)
    dropping = Encoder(tiny.ENCODERS["vit"])
    dropping.model.norm = torch.nn.Dropout(0.1)
    validate_micro_batch(dropping, PLAIN, micro_batch=0)
    with pytest.raises(UserError, match=r"model\.norm.*dropout of 0\.1"):
        validate_micro_batch(dropping, PLAIN, micro_batch=2)


def test_balanced_gradients_need_the_whole_batch() -> None:
    encoder = Encoder(tiny.ENCODERS["vit"])
    validate_micro_batch(encoder, ReconstructionConfig(balance=1.0), micro_batch=0)
    with pytest.raises(UserError, match=r"micro_batch cuts the batch, but reconstruction\.balance"):
        validate_micro_batch(encoder, ReconstructionConfig(balance=1.0), micro_batch=2)
