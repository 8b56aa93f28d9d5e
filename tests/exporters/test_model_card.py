"""The model card tells where the weights come from, and nothing about the user's files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repre.config import RunConfig, dump_yaml
from repre.exporters.model_card import model_card
from repre.models.encoder import Encoder
from repre.models.repre import ReconstructionConfig
from repre.models.resolve import ResolvedEncoder, resolve_encoder
from repre.models.timm_folder import save_encoder
from tests.tiny import ENCODERS

RANDOM = "random:vit_tiny_patch16_224[depth=1,embed_dim=24,num_heads=1,image_size=32]"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of secret images in a secret folder."""
    folder = tmp_path / "secret-customer"
    torch.manual_seed(0)
    save_encoder(Encoder(ENCODERS["vit"]), folder / "encoder", mean=[0.4] * 3, std=[0.2] * 3)
    write_config(folder, RunConfig(data=str(tmp_path / "secret-photos"), out=str(folder)))
    (folder / "summary.json").write_text(json.dumps({"steps": 123, "images": 4567}))
    return folder


def write_config(run: Path, config: RunConfig) -> None:
    (run / "config.yaml").write_text(dump_yaml(config))


def card_of(spec: str | Path) -> str:
    resolved = resolve_encoder(str(spec))
    return model_card(resolved.build(), resolved)


def test_a_run_has_its_training_and_no_paths(run: Path) -> None:
    card = card_of(run)
    assert "vit_tiny_patch16_224, pre-trained with repre" in card
    assert "from random weights by moco-v3, and in parallel by reconstructing pixels" in card
    assert "| steps | 123 |" in card
    assert "| images seen | 4567 |" in card
    assert "Data: own images, not published." in card
    assert "secret" not in card
    assert card == card_of(run / "encoder")


def test_a_run_without_a_branch_does_not_claim_one(run: Path) -> None:
    write_config(run, RunConfig(reconstruction=ReconstructionConfig(weight=0.0)))
    card = card_of(run)
    assert "by moco-v3." in card
    assert "RePre" not in card


def test_a_run_from_published_weights_says_so(run: Path) -> None:
    config = RunConfig()
    write_config(run, replace(config, encoder=replace(config.encoder, weights="hub")))
    assert "from timm's published weights by moco-v3" in card_of(run)


def test_a_run_that_starts_from_another_does_not_claim_random_weights(run: Path) -> None:
    write_config(run, RunConfig(start_from="secret-run"))
    card = card_of(run)
    assert "without labels from the state of another run of repre by" in card
    assert "random weights" not in card
    assert "secret" not in card


def test_a_checkpoint_has_no_totals_of_the_run(run: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_encoder(Encoder(ENCODERS["vit"]), tmp_path / "of-checkpoint")
    saved = resolve_encoder(str(tmp_path / "of-checkpoint"))
    resolved = replace(saved, folder=run)
    card = model_card(resolved.build(), resolved)
    assert "| steps |" not in card
    assert "| weights | of a checkpoint, possibly before the last epoch |" in card


@pytest.mark.parametrize("spec", [RANDOM, "random:RUN"])
def test_random_weights_are_not_called_trained(run: Path, spec: str) -> None:
    card = card_of(spec.replace("RUN", str(run)))
    assert "# vit_tiny_patch16_224, not trained\n" in card
    assert "An image encoder with random weights" in card
    assert "pre-trained" not in card
    assert "self-supervised" not in card
    assert "## Training" not in card


def test_weights_of_timm_are_attributed_to_timm() -> None:
    """Built without a download: the card depends on how the encoder was named."""
    encoder = Encoder(ENCODERS["vit"])
    config = replace(ENCODERS["vit"], weights="hub")
    card = model_card(encoder, ResolvedEncoder("hub:vit_tiny_patch16_224", config, None))
    assert "# vit_tiny_patch16_224, weights of timm\n" in card
    assert "repre exported them and did not train them" in card
    assert "self-supervised" not in card


def test_weights_of_unknown_origin_claim_nothing(tmp_path: Path) -> None:
    save_encoder(Encoder(ENCODERS["vit"]), tmp_path / "saved")
    card = card_of(tmp_path / "saved")
    assert "how they were trained is not recorded" in card
    assert "pre-trained" not in card
