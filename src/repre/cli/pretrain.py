"""`repre pretrain`: pre-train an encoder."""

from collections.abc import Sequence

from repre import api
from repre.cli.run_options import RunOptions, parse_run_options
from repre.utils.dist import is_main_process

DESCRIPTION = """Pre-train an encoder. Run the same command again to resume. The defaults below are those of the recipe;
--encoder.model-args.KEY VALUE sets any argument of the timm model, such as depth.

Examples:
  repre pretrain vit-small-moco-v3 --data photos/ --out runs/photos --epochs 100
  repre pretrain vit-small-dino --epochs 10 --print-config > my.yaml
  repre pretrain --config my.yaml
  repre pretrain --from runs/photos --epochs 50 --out runs/photos-150"""


def main(arguments: Sequence[str]) -> int:
    options = parse_run_options(RunOptions, arguments, command="pretrain", description=DESCRIPTION)
    run = api.pretrain(options.run)
    if is_main_process():
        print(_summarize(run))
    return 0


def _summarize(run: api.Run) -> str:
    """The closing lines of a run: speed, k-NN on the embedded scenes, where report and encoder are."""
    summary = run.summary
    seconds = summary["seconds"]
    lines = [
        "",
        f"{summary['images']} images in {seconds:.{0 if seconds >= 10 else 1}f} s ({summary['images_per_s']:.0f} images/s, "
        f"{100 * summary['data_wait']:.0f} % of the time waiting for data)",
    ]
    if knn := summary.get("knn"):
        lines += [
            f"k-NN on the scenes: {knn['before']:.1%} before, {knn['after']:.1%} after training",
            "  " + ", ".join(f"{name} {knn[name]:.1%}" for name in ("raw pixels", "color histogram", "majority class")),
        ]
        if knn["after"] <= knn["before"]:
            lines.append("  training did not help")
        if knn["after"] <= knn["raw pixels"]:
            lines.append("  the features are no better than raw pixels")
    if summary["unreadable"]:
        lines.append(f"{summary['unreadable']} files could not be read; see {run.path / 'unreadable.txt'}")
    if several := summary.get("several_frames"):
        lines.append(f"{several} files have several frames or pages; only the first one was used")
    lines.append(f"report: {run.path / 'report.html'}")
    lines.append(f"encoder: timm.create_model('local-dir:{run.path / 'encoder'}', pretrained=True)")
    return "\n".join(lines)
