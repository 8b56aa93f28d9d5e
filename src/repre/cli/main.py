"""The command line. Options are made from the typed configs; every command is a function below."""

import ast
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from repre import __version__
from repre.api import Run, pretrain
from repre.config import RunConfig, load_yaml
from repre.errors import RunError, UserError, near_names
from repre.models.resolve import resolve_encoder
from repre.recipes import RECIPES, recipe
from repre.reporting import write_comparison, write_report
from repre.utils.dist import is_main_process

USAGE = f"""repre {__version__}: pre-train vision transformers, contrastively and with raw-pixel reconstruction

  repre pretrain [RECIPE] [--data photos/] [--out runs/photos] [--epochs 100] [options]
      pre-trains an encoder; without a recipe, quickstart on the embedded scenes
  repre pretrain --config FILE.yaml [options]
      takes the config of another run
  repre pretrain --resume RUN
      goes on with an unfinished run; so does the same command given again
  repre plan [RECIPE] [the same options] [--max-hours 12]
      half a minute's probe: what fits, images/s, hours, what limits it; the options to add
  repre eval knn|linear|finetune|segment|detect --encoder RUN [--data ...] [options]
      says what an encoder is worth: a run, a checkpoint, a timm name, random:NAME; the result lies beside it
  repre compare RUN [RUN ...] [random:NAME] --eval knn segment --seeds 3 [--data ...]
      the same evaluations for every start, and the gain over chance
  repre report RUN [RUN ...]
      one page about a run that opens offline; several runs side by side
  repre export --run RUN --to timm|huggingface|onnx|torch-export [--out FOLDER]
      the encoder for other libraries, loaded back and compared
  repre embed --run RUN --data photos/ --out features.npz [--kind pooled|patch|pyramid]
      features of many images in a file
  repre reconstruct --run RUN IMAGE [IMAGE ...] [--out PANEL.png]
      rebuilds images from an encoder's features
  repre data check photos/
      reads every image once and says what is there
  repre data scenes --out scenes/
      the embedded scenes as files, in every format that evaluations read

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
    base, rest = _model_args(base, rest)
    config = tyro.cli(
        tyro.conf.AvoidSubcommands[RunConfig],
        default=base,
        args=rest,
        prog=f"repre pretrain {name}",
        description="Pre-trains an encoder. The defaults shown are those of the recipe.",
    )
    run = pretrain(config)
    if is_main_process():
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


def _model_args(base: RunConfig, words: list[str]) -> tuple[RunConfig, list[str]]:
    """Takes every ``--encoder.model-args.KEY VALUE`` out of the words and adds it to the config: the keys are timm's, so
    that no recipe can list them beforehand."""
    prefix, rest, given = "--encoder.model-args.", list(words), dict(base.encoder.model_args)
    while place := next((i + 1 for i, word in enumerate(rest) if word.startswith(prefix)), 0):
        key, equals, value = rest[place - 1].removeprefix(prefix).partition("=")
        end = place
        while not equals and end < len(rest) and not rest[end].startswith("--"):
            end += 1
        values = [value] if equals else rest[place:end]
        if not values:
            raise UserError(f"{prefix}{key} needs a value")
        rest[place - 1 : end] = []
        given[key.replace("-", "_")] = tuple(map(_plain, values)) if len(values) > 1 else _plain(values[0])
    return dataclasses.replace(base, encoder=dataclasses.replace(base.encoder, model_args=given)), rest


def _plain(word: str) -> Any:
    """A word as the number, truth value or name that it stands for."""
    try:
        value = ast.literal_eval(word.title() if word.lower() in ("true", "false") else word)
    except (SyntaxError, ValueError):
        return word
    return value if isinstance(value, int | float | bool | tuple) else word


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
            "  " + ", ".join(f"{name} {knn[name]:.1%}" for name in ("raw pixels", "color histogram", "majority class")),
        ]
        if knn["after"] <= knn["before"]:
            lines.append("  training did not help here")
        if knn["after"] <= knn["raw pixels"]:
            lines.append("  these features do not beat the raw pixels")
    if summary["unreadable"]:
        lines.append(f"{summary['unreadable']} files could not be read; see {run.path / 'unreadable.txt'}")
    lines.append(f"report: {run.path / 'report.html'}")
    lines.append(f"encoder: timm.create_model('local-dir:{run.path / 'encoder'}', pretrained=True)")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------- plan


def _plan(words: list[str]) -> int:
    from repre.training.planner import plan
    from repre.training.planner import words as plan_words

    base, rest, name = _base_config(words)
    base, rest = _model_args(base, rest)
    settings: Any = tyro.conf.AvoidSubcommands[RunConfig]
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [
            ("config", Annotated[settings, tyro.conf.arg(name="")], dataclasses.field(default=base)),
            ("seconds", Annotated[float, tyro.conf.arg(help="about how long the probe may take")], 30.0),
            ("max_hours", Annotated[float | None, tyro.conf.arg(help="shorten the run to this budget")], None),
        ],
    )
    given: Any = tyro.cli(
        arguments,
        args=rest,
        prog=f"repre plan {name}",
        description="Measures what fits and how fast it is, before training.",
    )
    print(plan_words(plan(given.config, seconds=given.seconds, max_hours=given.max_hours)))
    return 0


# ------------------------------------------------------------------------------------------------ eval and compare


def _eval(words: list[str]) -> int:
    from repre.evaluation.registry import EVALUATIONS, evaluation
    from repre.evaluation.runner import evaluate

    if not words or words[0].startswith("-"):
        known = "\n".join(f"  repre eval {name:9} {entry.words}" for name, entry in EVALUATIONS.items())
        if words[:1] in (["-h"], ["--help"]):
            print(f"{known}\n  repre eval NAME --help lists its options")
            return 0
        raise UserError(f"eval needs the name of an evaluation:\n{known}")
    name = words[0]
    kind = evaluation(name).config
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [
            ("encoder", Annotated[str, tyro.conf.arg(help="run, checkpoint, weights or timm name to evaluate")]),
            ("settings", Annotated[kind, tyro.conf.arg(name="")], dataclasses.field(default_factory=kind)),
            ("random", Annotated[bool, tyro.conf.arg(help="the model without training")], False),
            (
                "out",
                Annotated[Path | None, tyro.conf.arg(help="folder of results; by default beside the encoder")],
                None,
            ),
        ],
    )
    given: Any = tyro.cli(arguments, args=words[1:], prog=f"repre eval {name}", description=evaluation(name).words)
    encoder = f"random:{given.encoder.removeprefix('random:')}" if given.random else given.encoder
    found = evaluate(name, resolve_encoder(encoder), given.settings, out=given.out)
    print(f"{name} of {encoder} on {given.settings.data}, {found['seconds']:.0f} s")
    for metric in sorted(found["metrics"], key=lambda metric: (metric != found["main"], metric)):
        print(f"  {metric:24} {100 * found['metrics'][metric]:6.2f} %")
    print(f"written to {found['path']}")
    return 0


def _compare(words: list[str]) -> int:
    from repre.evaluation.comparison import compare, markdown
    from repre.evaluation.registry import evaluation

    chosen = _values_of("--eval", words) or ["knn"]
    kinds = {name: evaluation(name).config for name in chosen}
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [
            ("encoders", Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(help="what is compared")]),
            ("eval", Annotated[tuple[str, ...], tyro.conf.arg(help="evaluations")], ("knn",)),
            ("seeds", Annotated[int, tyro.conf.arg(help="how often each is run")], 3),
            ("data", Annotated[str | None, tyro.conf.arg(help="labeled data of all evaluations")], None),
            ("out", Annotated[Path, tyro.conf.arg(help="folder for compare.md, .csv, .json")], Path("comparison")),
            ("supervised", Annotated[str | None, tyro.conf.arg(help="the start with supervised weights")], None),
            *((name, kind, dataclasses.field(default_factory=kind)) for name, kind in kinds.items()),
        ],
    )
    given: Any = tyro.cli(arguments, args=words, prog="repre compare", description="What is gained over chance.")
    configs = {name: getattr(given, name) for name in kinds}
    if given.data is not None:
        configs = {name: dataclasses.replace(config, data=given.data) for name, config in configs.items()}
    rows = compare(given.encoders, configs, seeds=given.seeds, out=given.out, supervised=given.supervised)
    print(f"\n{markdown(rows, seeds=given.seeds)}\nwritten to {given.out}")
    runs = [Path(name) for name in given.encoders if (Path(name) / "config.yaml").is_file()]
    if len(runs) > 1:
        print(f"side by side: {write_comparison(runs, given.out / 'report.html')}")
    return 0


def _values_of(option: str, words: list[str]) -> list[str]:
    """The words that follow an option, up to the next one."""
    found: list[str] = []
    for place, word in enumerate(words):
        if word == option or word.startswith(f"{option}="):
            found += [word.partition("=")[2]] if "=" in word else []
            rest = words[place + 1 :]
            stop = next((i for i, other in enumerate(rest) if other.startswith("-")), len(rest))
            found += rest[:stop]
    return found


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

    from repre.training.reconstruct_images import reconstruct

    images, run, out, checkpoint = tyro.cli(arguments, args=words, prog="repre reconstruct")
    psnr = reconstruct(images, run=run, out=out, checkpoint=None if checkpoint == "last" else Path(checkpoint))
    for path, value in zip(images, psnr):
        print(f"{path}: PSNR {value:.1f} dB")
    print(f"written to {out}")
    return 0


# ------------------------------------------------------------------------------------------------- export and embed


def _export(words: list[str]) -> int:
    from repre.exporters import TARGETS, export

    def arguments(
        run: Annotated[str, tyro.conf.arg(aliases=["--encoder"])], to: str = "timm", out: Path | None = None
    ) -> tuple[str, str, Path]:
        """
        Args:
            run: a run, a checkpoint, weights or a timm name.
            to: timm, huggingface, onnx or torch-export.
            out: folder to write; by default exports/TARGET below the run, or here.
        """
        above = Path(run) if Path(run).is_dir() else Path()
        return run, to, out or above / "exports" / to

    kinds = "\n".join(f"  {name}: {target.words}" for name, target in TARGETS.items())
    described = f"Writes an encoder for other libraries, loads it back with them and compares the features.\n{kinds}"
    run, to, out = tyro.cli(arguments, args=words, prog="repre export", description=described)
    found = export(run, to=to, out=out)
    print(f"written to {found.path}; largest difference {found.difference:.2g} of the largest feature")
    return 0


def _embed(words: list[str]) -> int:
    from repre.evaluation.options import RuntimeOptions
    from repre.exporters.embeddings import Kind, embed

    @dataclasses.dataclass(frozen=True)
    class Arguments:
        encoder: Annotated[str, tyro.conf.arg(aliases=["--run"], help="a run, a checkpoint, weights or a timm name")]
        data: Annotated[str, tyro.conf.arg(help="images, as for pretrain")]
        out: Annotated[Path, tyro.conf.arg(help="features.npz or features.parquet")]
        kind: Annotated[Kind, tyro.conf.arg(help="pooled embedding, last map, or the maps of all levels")] = "pooled"
        size: Annotated[int | None, tyro.conf.arg(help="side of the images; by default the encoder's own")] = None
        half: Annotated[bool, tyro.conf.arg(help="float16")] = False
        value_range: Annotated[
            tuple[float, float] | None, tyro.conf.arg(help="pixel values that stand for 0 and 1, as the run had them")
        ] = None
        runtime: RuntimeOptions = dataclasses.field(default_factory=RuntimeOptions)

    given = tyro.cli(Arguments, args=words, prog="repre embed", description="Features of many images in a file.")
    count = embed(
        given.encoder,
        data=given.data,
        out=given.out,
        kind=given.kind,
        size=given.size,
        half=given.half,
        value_range=given.value_range,
        runtime=given.runtime,
    )
    print(f"{count} images embedded; written to {given.out}")
    unreadable = given.out.with_name(f"{given.out.name}.unreadable.txt")
    if unreadable.is_file():
        print(f"files that could not be read are listed in {unreadable}")
    return 0


def _report(words: list[str]) -> int:
    def arguments(
        runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None
    ) -> tuple[tuple[Path, ...], Path | None]:
        """Writes one self-contained page about a run, or about several side by side.

        Args:
            runs: folders of runs.
            out: the page; by default report.html in the run's folder, or here for several.
        """
        return runs, out

    runs, out = tyro.cli(arguments, args=words, prog="repre report")
    if not runs:
        raise UserError("report needs the folder of a run")
    page = write_report(runs[0], out) if len(runs) == 1 else write_comparison(runs, out or Path("report.html"))
    print(f"written to {page}")
    return 0


# ----------------------------------------------------------------------------------------------------------- data


def _data(words: list[str]) -> int:
    actions = {"check": _data_check, "scenes": _data_scenes}
    if not words or words[0].startswith("-"):
        print(f"repre data ACTION, where ACTION is {' or '.join(actions)}; repre data ACTION --help lists the options")
        return 0 if words else 2
    if words[0] not in actions:
        raise UserError(f"no action {words[0]!r}{near_names(words[0], actions)}; there are: {', '.join(actions)}")
    return actions[words[0]](words[1:])


def _data_check(words: list[str]) -> int:
    from repre.data.io.sources import open_source
    from repre.data.tools.check import check
    from repre.utils.device import pick_workers

    def arguments(
        data: tyro.conf.Positional[str], channels: int = 3, split: str = "train", workers: int | None = None
    ) -> tuple[str, int, str, int | None]:
        """Reads every image once and says what is there: sizes, unreadable files, copies, images of one color.

        Args:
            data: images, as for pretrain.
            channels: of the images.
            split: train or val, of data that have both.
            workers: processes that decode images; by default one less than the processor's cores.
        """
        return data, channels, split, workers

    data, channels, split, workers = tyro.cli(arguments, args=words, prog="repre data check")
    found = check(open_source(data, split=split, channels=channels), workers=pick_workers(workers))
    print("\n".join(found.lines()))
    return 1 if found.unreadable else 0


def _data_scenes(words: list[str]) -> int:
    from repre.data.scenes import ScenesConfig
    from repre.data.tools.write import write_scenes

    @dataclasses.dataclass(frozen=True)
    class Arguments:
        out: Annotated[Path, tyro.conf.arg(help="new folder")]
        train: Annotated[int, tyro.conf.arg(help="scenes to train on")] = 1000
        val: Annotated[int, tyro.conf.arg(help="scenes to test on")] = 200
        scenes: Annotated[ScenesConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ScenesConfig)

    described = "Writes the embedded scenes as files: images, masks, COCO annotations and a table of labels."
    given = tyro.cli(Arguments, args=words, prog="repre data scenes", description=described)
    write_scenes(given.out, {"train": given.train, "val": given.val}, config=given.scenes)
    print(f"written to {given.out}; read them as csv:{given.out}/labels.csv, coco:{given.out}, or")
    print(f"pairs:{given.out}/{{split}}/images,{given.out}/{{split}}/masks")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "pretrain": _pretrain,
    "plan": _plan,
    "eval": _eval,
    "compare": _compare,
    "report": _report,
    "export": _export,
    "embed": _embed,
    "reconstruct": _reconstruct,
    "data": _data,
}
