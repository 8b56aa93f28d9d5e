"""The smallest start, and options that keep a test on one CPU process and in its own folder."""

from pathlib import Path

from repre.evaluation.options import RuntimeOptions
from repre.models.resolve import ResolvedEncoder, resolve_encoder

VIT = "random:vit_tiny_patch16_224[image_size=16,patch_size=8,embed_dim=16,depth=2,num_heads=2]"


def tiny_start(spec: str = VIT) -> ResolvedEncoder:
    return resolve_encoder(spec)


def on_cpu(cache: Path, *, batch: int = 16, workers: int = 0) -> RuntimeOptions:
    return RuntimeOptions(device="cpu", workers=workers, batch=batch, cache=cache)
