"""The command line: ``repre pretrain | reconstruct``. Options are made from the typed config."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from repre import __version__
from repre.api import Run, pretrain
from repre.config import RunConfig, load_yaml
from repre.errors import RunError, UserError, near_names
from repre.ops.dist import is_main
from repre.recipes import RECIPES, recipe

USAGE = f"""repre {__version__}: pre-train vision transformers, contrastively and with raw-pixel reconstruction

  repre pretrain [RECIPE] [--data photos/] [--out runs/photos] [--epochs 100] [options]
      pre-trains an encoder; without a recipe, quickstart on the embedded scenes
  repre pretrain --config FILE.yaml [options]
      takes the config of another run
  repre pretrain --resume RUN
      goes on with an unfinished run; so does the same command given again
  repre reconstruct --run RUN IMAGE [IMAGE ...] [--out PANEL.png]
      rebuilds images from an encoder's features

  repre COMMAND --help lists all options. Recipes:
      {chr(10).join(" ".join(list(RECIPES)[i : i + 4]) + chr(10) + "     " for i in range(0, len(RECIPES), 4)).strip()}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; gives the exit code: 0 done, 1 the run could not go on, 2 a mistake in the input."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except UserError as error:
        print(f"repre: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"repre: {error}", file=sys.stderr)
        return getattr(error, "code", 1)
    except KeyboardInterrupt:
        print("repre: interrupted", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise UserError(f"no command {command!r}{near_names(command, COMMANDS)}; there are: {', '.join(COMMANDS)}")
    return COMMANDS[command](rest)


# ------------------------------------------------------------------------------------------------------- pretrain


def _pretrain(words: list[str]) -> int:
    base, rest, name = _base_config(words)
    config = tyro.cli(
        tyro.conf.AvoidSubcommands[RunConfig],
        default=base,
        args=rest,
        prog=f"repre pretrain {name}",
        description="Pre-trains an encoder. The defaults shown are those of the recipe.",
    )
    run = pretrain(config)
    if is_main():
        print(_closing(run))
    return 0


def _base_config(words: list[str]) -> tuple[RunConfig, list[str], str]:
    """The config that the options change: a recipe's, a file's or an unfinished run's; the other words; its name."""
    if words and not words[0].startswith("-"):
        return recipe(words[0]), words[1:], words[0]
    rest = list(words)
    for option in ("--config", "--resume"):
        for place, word in enumerate(rest):
            key, equals, value = word.partition("=")
            if key == option:
                end = place + (1 if equals else 2)
                if not equals:
                    if place + 1 == len(rest):
                        raise UserError(f"{option} needs a path")
                    value = rest[place + 1]
                rest[place:end] = []
                if option == "--config":
                    return load_yaml(Path(value)), rest, f"--config {value}"
                if not (Path(value) / "config.yaml").is_file():
                    raise UserError(f"--resume {value}: there is no run in that folder (no config.yaml)")
                return load_yaml(Path(value) / "config.yaml"), ["--out", value, *rest], f"--resume {value}"
    return recipe("quickstart"), rest, "quickstart"


def _closing(run: Run) -> str:
    summary = run.summary
    lines = [
        "",
        f"{summary['images']} images in {summary['seconds']:.0f} s ({summary['images_per_s']:.0f} images/s, "
        f"{100 * summary['data_wait']:.0f} % of the time waiting for data)",
    ]
    knn = summary.get("knn")
    if knn:
        lines += [
            f"k-NN on the scenes: {knn['before']:.1%} before, {knn['after']:.1%} after training",
            "  "
            + ", ".join(f"{name} {knn[name]:.1%}" for name in ("raw pixels", "colour histogram", "majority class")),
        ]
        if knn["after"] <= knn["before"]:
            lines.append("  training did not help here")
        if knn["after"] <= knn["raw pixels"]:
            lines.append("  these features do not beat the raw pixels")
    if summary["unreadable"]:
        lines.append(f"{summary['unreadable']} files could not be read; see {run.path / 'unreadable.txt'}")
    panels = sorted((run.path / "panel").glob("*.png"))
    if panels:
        lines.append(f"reconstructions: {panels[-1]}")
    lines.append(f"encoder: timm.create_model('local-dir:{run.path / 'encoder'}', pretrained=True)")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- reconstruct


def _reconstruct(words: list[str]) -> int:
    def arguments(
        images: tyro.conf.Positional[tuple[Path, ...]],
        run: Path,
        out: Path = Path("reconstruction.png"),
        checkpoint: Annotated[str, tyro.conf.arg(help="last, or the path of a checkpoint")] = "last",
    ) -> tuple[tuple[Path, ...], Path, Path, str]:
        """Rebuilds images from an encoder's features and writes a PNG: images above, reconstructions below.

        Args:
            images: files to rebuild.
            run: folder of a run.
            out: PNG to write.
        """
        return images, run, out, checkpoint

    from repre.train.reconstruct import reconstruct

    images, run, out, checkpoint = tyro.cli(arguments, args=words, prog="repre reconstruct")
    psnr = reconstruct(images, run=run, out=out, checkpoint=None if checkpoint == "last" else Path(checkpoint))
    for path, value in zip(images, psnr):
        print(f"{path}: PSNR {value:.1f} dB")
    print(f"written to {out}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"pretrain": _pretrain, "reconstruct": _reconstruct}

if __name__ == "__main__":
    sys.exit(main())
