"""What of DINO the contract does not see."""

import pytest
import torch
from torch import nn

from repre.frameworks.dino import DINOConfig, DINOHead


def test_prototypes_start_as_long_as_the_rows_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    head = DINOHead(DINOConfig(hidden=16, bottleneck=64, prototypes=500), width=8)
    linear = nn.Linear(64, 500, bias=False).weight
    assert head.directions.norm(dim=1).mean().item() == pytest.approx(linear.norm(dim=1).mean().item(), rel=0.02)
    assert head.directions.requires_grad


def test_logits_are_cosines_unless_lengths_are_learnt() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(6, 8)
    fixed = DINOHead(DINOConfig(hidden=16, bottleneck=4, prototypes=9), width=8)
    learnt = DINOHead(DINOConfig(hidden=16, bottleneck=4, prototypes=9, norm_prototypes=False), width=8)
    learnt.load_state_dict(fixed.state_dict(), strict=False)
    assert learnt.lengths is not None
    with torch.no_grad():
        learnt.lengths.copy_(torch.arange(9.0))
    assert fixed(embedding).abs().max().item() <= 1 + 1e-6
    assert torch.allclose(learnt(embedding), fixed(embedding) * torch.arange(9.0))
