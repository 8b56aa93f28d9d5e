"""The entry point of `repre`: picks the command and turns errors into messages and exit codes."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from repre import __version__
from repre.cli.own_words import in_own_words
from repre.cli.streams import SafeStreams
from repre.errors import RunError, UserError, near_names
from repre.utils.os_errors import describe_os_error
from repre.utils.printable_text import say

USAGE = f"""repre {__version__}: self-supervised pre-training of vision transformers with raw-pixel reconstruction

  repre pretrain [RECIPE] [--data photos/] [--out runs/photos] [--epochs 100] [options]
      Pre-train an encoder. The default recipe is quickstart, on the embedded scenes.
      Run the same command again to resume.
  repre pretrain --config FILE.yaml [options]
      Pre-train with the settings of a file.
  repre pretrain --resume RUN
      Resume the run in a folder.
  repre pretrain --from RUN --out NEW [--epochs 50] [options]
      Start a new run from the full state of another run, with a new schedule.
  repre recipes
      List the recipes, with data, memory and time of each. For few images: small-data.
  repre plan [RECIPE] [options of pretrain] [--max-hours 12]
      Measure for half a minute what fits, images per second, hours and the bottleneck. Print options to add.
  repre eval knn|linear|finetune|segment|patch-knn|depth|detect --encoder RUN [--data labeled/] [options]
      Measure encoder quality. An encoder is a run, a checkpoint, a weights file, a timm name or random:NAME.
  repre compare RUN [RUN ...] [random:NAME] --eval knn segment [--seeds 3] [--data labeled/]
      Evaluate several encoders in the same way. Print their gains over random init.
  repre report RUN [RUN ...]
      Write an HTML report about a run, or about several side by side. It opens offline.
  repre export --encoder RUN --to timm|huggingface|onnx|torch-export [--out FOLDER]
      Export the encoder for other libraries. Load it back and compare the features.
  repre export --model RUN/evaluations/RESULT.json --to onnx|torch-export [--out FOLDER]
      Export a fitted model, encoder and head together.
  repre embed --encoder RUN --data photos/ --out features.npz [--kind pooled|patch|pyramid]
      Write the features of many images to a file.
  repre predict --model RUN/evaluations/RESULT.json photos/ --out predictions/
      Predict images with a fitted model: classes (CSV), masks (PNG) or boxes (COCO JSON), with overlays.
  repre reconstruct --run RUN IMAGE [IMAGE ...] [--out reconstruction.png]
      Rebuild images from the encoder's features.
  repre data check photos/
      Read every image once. List unreadable files, duplicates and sizes. With --labels check the labels.
  repre data shard photos/ --out shards/
      Write images as tar shards, shrunk or as they are.
  repre data scenes --out scenes/
      Write the embedded scenes as files, with labels, masks and boxes.

`repre COMMAND --help` lists the options of a command, and `repre pretrain --help` the recipes."""

MODULES = {
    "pretrain": "repre.cli.pretrain",
    "recipes": "repre.cli.list_recipes",
    "plan": "repre.cli.plan",
    "eval": "repre.cli.evaluate",
    "compare": "repre.cli.compare",
    "report": "repre.cli.report",
    "export": "repre.cli.export",
    "embed": "repre.cli.embed",
    "predict": "repre.cli.predict",
    "reconstruct": "repre.cli.reconstruct",
    "data": "repre.cli.data",
}
"""Module of every command; its function `main` takes the arguments after the command."""
WITHOUT_TORCH = ("report",)
"""Commands that never load torch."""
ON_ALL_RANKS = ("pretrain",)
"""Commands that every process of torchrun runs. Any other is run by rank 0 alone, which prints and writes for all; what can
be shared, the others do for it (`repre.utils.together`), and all end with its exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Exit codes: 0 for success, 1 if a run cannot continue or `data check` finds unreadable files, 2 for a mistake in the
    input, 130 after Ctrl-C, 128 plus the signal's number if a signal stopped a run, 141 if the reader of the output left.

    Args:
        argv: the command and its options; None: those of the process, whose standard streams then become `SafeStreams`.

    Raises:
        SystemExit: after --help (0), or for an option that cannot be parsed (2).
    """
    if argv is not None:
        return _run(*(argv or [""]))
    with SafeStreams() as streams:
        return streams.exit_code(_run(*(sys.argv[1:] or [""])))


def _run(command: str, *arguments: str) -> int:
    if command in ("", "-h", "--help", "help"):
        print(USAGE)
        return 0 if command else 2
    if command == "--version":
        print(__version__)
        return 0
    alone = partial(_run_in_this_process, command, *arguments)
    if command in ON_ALL_RANKS or os.environ.get("WORLD_SIZE", "1") == "1" or _asks_for_help(arguments):
        return alone()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's own words about a process that is gone; ours follow
    from repre.utils.together import led_by_rank_0  # imports torch

    try:
        return led_by_rank_0(alone)
    except (UserError, RunError) as error:  # rank 0 is gone, or another rank that it does not notice
        return _say(str(error), error, code=error.code)


def _run_in_this_process(command: str, *arguments: str) -> int:
    try:
        if command not in MODULES:
            raise UserError(
                f"unknown command {command!r}; choose one of: {', '.join(MODULES)}{near_names(command, MODULES)}"
            )
        _announce_loading(command, arguments)
        return import_module(MODULES[command]).main([*arguments])
    except (UserError, RunError) as error:
        return _say(in_own_words(str(error), command, arguments), error, code=error.code)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        described = describe_os_error(error, arguments)
        if described is not None:
            return _say(str(described), error, code=described.code)
        from repre.utils.device_errors import describe_device_error  # imports torch, which --help does without

        reason = describe_device_error(error)
        if reason is None:
            raise
        return _say(reason, error, code=RunError.code)
    except KeyboardInterrupt as error:
        return _say("interrupted", error, code=130)


def _say(message: str, error: BaseException, *, code: int) -> int:
    """Prints why a command ends, and returns its exit code."""
    say(*"\n".join([f"repre: {message}", *notes(error)]).split("\n"), error=True)
    return code


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return not {"-h", "--help", "--help-all", "--print-config"}.isdisjoint(arguments)


def _announce_loading(command: str, arguments: Sequence[str]) -> None:
    """Says that torch is being loaded, which takes seconds before a command can print anything; not before help."""
    is_first_process = os.environ.get("RANK", "0") == "0"
    if (
        is_first_process
        and not _asks_for_help(arguments)
        and command not in WITHOUT_TORCH
        and "torch" not in sys.modules
    ):
        print(f"repre {__version__} {command}: loading PyTorch", file=sys.stderr, flush=True)


def notes(error: BaseException) -> list[str]:
    """What an error says after its message: the next command, and the report of a run that failed."""
    return getattr(error, "__notes__", [])
