"""The table of docs/export.md: every export of a ViT, a Swin and a ConvNeXt, loaded back by the other library.

    python benchmarks/exports.py                     # a few minutes on two cores
    python benchmarks/exports.py --out table.md

Each figure is the largest difference of a feature over the largest feature, at batches of two and of five images of random
pixels, with random weights from seed 0. Nothing is timed. The column of segmentation_models_pytorch compares the maps that
its encoder hands to a decoder, where it is installed.
"""

import argparse
import importlib.metadata
import importlib.util
import platform
import tempfile
from pathlib import Path

import torch

from repre.exporters import TARGETS, export
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.timm_folder import load_saved_encoder, save_encoder

MODELS = {"ViT": "vit_small_patch16_224", "Swin": "swin_tiny_patch4_window7_224", "ConvNeXt": "convnext_tiny"}
LIBRARIES = ("torch", "timm", "transformers", "onnx", "onnxscript", "onnxruntime", "segmentation_models_pytorch")
SMP = "segmentation_models_pytorch"


@torch.no_grad()
def in_smp(folder: Path) -> float:
    """What segmentation_models_pytorch makes of the encoder in `folder`, against its maps here."""
    import segmentation_models_pytorch as smp

    encoder = load_saved_encoder(folder).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    wanted = encoder(images).maps
    if len(set(encoder.strides)) == 1:
        model = smp.DPT(
            f"tu-local-dir:{folder}", encoder_weights=True, encoder_output_indices=encoder.out_indices
        ).eval()
        found = model.encoder(images)[0]
    else:
        model = smp.Unet(f"tu-local-dir:{folder}", encoder_weights=True).eval()
        found = model.encoder(images)[2:]  # the image itself and an empty map come before
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(wanted, found, strict=True))


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is not None:
            found.append(f"{library} {importlib.metadata.version(library)}")
    return ", ".join(found)


def table(models: dict[str, EncoderConfig]) -> str:
    """The table in Markdown, with versions."""
    smp = ["smp"] if importlib.util.find_spec(SMP) is not None else []
    columns = [*TARGETS, *smp]
    lines = ["| encoder | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for words, config in models.items():
        with tempfile.TemporaryDirectory() as scratch:
            torch.manual_seed(0)
            save_encoder(Encoder(config), Path(scratch) / "encoder")
            found = [
                export(f"{scratch}/encoder", to=target, out=Path(scratch) / target).difference for target in TARGETS
            ]
            found += [in_smp(Path(scratch) / "encoder") for _ in smp]
        lines.append(f"| {words} `{config.name}` | " + " | ".join("0" if x == 0 else f"{x:.1e}" for x in found) + " |")
    limits = " | ".join(f"{TARGETS[name].tolerance:.0e}" if name in TARGETS else "" for name in columns)
    lines.append(f"| refused above | {limits} |")
    return "\n".join(lines) + f"\n\n{versions()}; fp32 on the CPU.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file; by default the table is printed")
    out = parser.parse_args().out
    made = table({words: EncoderConfig(name=name) for words, name in MODELS.items()})
    if out is None:
        print(made)
    else:
        out.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
