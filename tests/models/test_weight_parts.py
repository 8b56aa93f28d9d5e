"""Wrappers around start weights: the encoder is found under every usual prefix, and the teacher before the student."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repre.models.load_report import LoadReport
from repre.models.weight_parts import find_encoder, flatten
from tests.models.timm_models import build, perturb, same_weights

pytestmark = pytest.mark.usefixtures("one_thread")

State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


HEAD = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.zeros(2, 1)}
DECODER = {"decoder_embed.weight": torch.zeros(8, 48), "decoder_blocks.0.norm1.weight": torch.zeros(8)}
# Name: the file's content, the prefix that the report names, and a word of the rest of the report.
WRAPPERS: dict[str, tuple[Callable[[State], dict[str, Any]], str, str]] = {
    "plain": (lambda s: s, "", "timm's names"),
    "supervised": (lambda s: s | {"head.weight": torch.zeros(10, 48), "head.bias": torch.zeros(10)}, "", "head.* (2)"),
    "training script": (
        lambda s: {"epoch": torch.tensor(3), "model": under("module.", s)},
        "model.module",
        "unused: epoch",
    ),
    "compiled": (lambda s: under("module._orig_mod.", s), "module", ""),
    "sharded": (
        lambda s: {k.replace("blocks.1.", "blocks.1._fsdp_wrapped_module."): v for k, v in s.items()},
        "",
        "timm's names",
    ),
    "dino": (
        lambda s: {
            "student": under("module.", under("backbone.", zeros(s)) | HEAD),
            "teacher": under("backbone.", s) | HEAD,
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
            "args": argparse.Namespace(lr=np.float64(0.1), output_dir=Path("run"), devices=[0]),
            "dino_loss": {"center": torch.zeros(1, 2)},
        },
        "teacher.backbone",
        "(not student.module.backbone)",
    ),
    "dino, one part": (
        lambda s: under("module.", under("backbone.", s) | HEAD),
        "module.backbone",
        "unused: module.* (2)",
    ),
    "dinov2": (lambda s: {"teacher": under("backbone.", s) | under("dino_head.", HEAD)}, "teacher.backbone", ""),
    "dinov2, training": (
        lambda s: {"model": under("student.backbone.", zeros(s)) | under("teacher.backbone.", s), "iteration": 3},
        "model.teacher.backbone",
        "(not model.student.backbone)",
    ),
    "moco v3": (
        lambda s: {
            "state_dict": under("module.base_encoder.", s | {"head.0.weight": torch.zeros(2, 2)})
            | under("module.momentum_encoder.", zeros(s))
            | under("module.predictor.", HEAD)
        },
        "state_dict.module.base_encoder",
        "(not state_dict.module.momentum_encoder)",
    ),
    "moby": (
        lambda s: {"model": under("encoder.", s) | under("encoder_k.", zeros(s)), "config": {"x": np.float32(1)}},
        "model.encoder",
        "(not model.encoder_k)",
    ),
    "mae": (lambda s: {"model": s | DECODER | {"mask_token": torch.zeros(1, 1, 8)}}, "model", "decoder_blocks.*"),
    "i-jepa": (
        lambda s: {"encoder": under("module.", zeros(s)), "target_encoder": under("module.", s), "predictor": HEAD},
        "target_encoder.module",
        "(not encoder.module)",
    ),
    "decoder in chunks": (
        lambda s: under("encoder.", s) | {"decoder.blocks.0.1.weight": torch.zeros(8, 8)},
        "encoder",
        "unused: decoder.*",
    ),
    "average": (lambda s: {"model": zeros(s), "model_ema": s}, "model_ema", "(not model)"),
    "lightning": (
        lambda s: {
            "state_dict": under("student_embedding_model.wrapped_model._model.", zeros(s))
            | under("teacher_embedding_model.wrapped_model._model.", s),
            "hyper_parameters": argparse.Namespace(lr=0.1),
        },
        "state_dict.teacher_embedding_model.wrapped_model._model",
        "(not state_dict.student_embedding_model.wrapped_model._model)",
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_encoder_is_found_in_the_usual_wrappers(tmp_path: Path, wrapper: str) -> None:
    source = perturb(build("vit_tiny_patch16_224"))
    wrap, part, words = WRAPPERS[wrapper]
    state = dict(source.model.state_dict())
    torch.save(wrap(state), tmp_path / "start.pth")
    encoder = build("vit_tiny_patch16_224", weights=str(tmp_path / "start.pth"))
    assert same_weights(source, encoder)
    report = encoder.load_report
    assert isinstance(report, LoadReport)
    assert (report.part, report.loaded, report.differences()) == (part, len(state), "")
    assert words in str(report)
    assert f"{len(state)} tensors loaded" in str(report)


def test_a_dictionary_that_holds_itself_is_read_once() -> None:
    content: dict[str, Any] = {"w": torch.zeros(1)}
    content["again"] = content
    assert list(flatten(content)) == ["w"]


def test_a_decoder_of_more_blocks_than_the_encoder_is_not_the_encoder() -> None:
    keys = [f"blocks.{block}.norm1.weight" for block in range(4)]
    names = [f"vit.{key}" for key in keys[:2]] + [f"decoder.{key}" for key in keys]
    assert find_encoder(names, keys).prefix == "vit."
