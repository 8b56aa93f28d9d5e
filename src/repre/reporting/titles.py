"""Titles for people: of metrics, evaluations and settings, whose names in files are short keys."""

import re

from repre.evaluation.metric_units import describe_value, metric_kind
from repre.reporting.formatting import format_number, percent
from repre.reporting.run_data import finite_number

METRICS = {
    "loss": "Loss, weighted sum",
    "contrastive": "Contrastive loss",
    "pixel": "Pixel loss",
    "loss_dino": "Loss on image tokens (DINO)",
    "loss_ibot": "Loss on hidden patches (iBOT)",
    "loss_koleo": "Loss that spreads embeddings (KoLeo)",
    "accuracy": "Contrastive accuracy",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "update_size": "Update size",
    "weight_size": "Weight size",
    "rankme": "Effective rank",
    "embedding_std": "Spread of the embeddings",
    "batch_std": "Spread within the batch",
    "alignment": "Alignment of two views",
    "uniformity": "Uniformity",
    "distinct_images": "Distinct images",
    "knn": "k-NN accuracy on the scenes",
    "miou": "mIoU of a linear head",
    "linear": "Accuracy of a linear classifier",
    "probe/knn": "k-NN accuracy on your labels",
    "probe/linear": "Accuracy of a linear classifier on your labels",
    "probe/miou": "mIoU of a linear head on your masks",
    "probe/patch_knn": "mIoU of nearest patches on your masks",
    "correspondence": "Patch correspondence",
    "correspondence_chance": "Patch correspondence, random guess",
    "patch_rank": "Effective rank of patch features",
    "psnr": "PSNR, dB",
    "psnr_flat": "PSNR of a single color, dB",
    "ssim": "SSIM",
    "agreement": "Agreement of teacher and student in the batch",
    "teacher_agreement": "Agreement of teacher and student",
    "teacher_moved": "Movement of the teacher",
    "student_moved": "Movement of the student",
    "teacher_follows": "Movement of the teacher over the student's",
    "teacher_entropy": "Entropy of the teacher",
    "prototype_entropy": "Entropy over prototypes",
    "prototype_information": "Information of prototypes",
    "effective_negatives": "Effective negatives",
    "negative_share": "Share of effective negatives",
    "gradient_ratio": "Pixel to contrastive gradient",
    "images_per_s": "Images per second",
    "mfu": "Model FLOPs utilization",
    "data_wait": "Waiting for data",
    "validation_seconds": "Validation, seconds",
    "probe_seconds": "Probes, seconds",
}
PATTERNS = (
    (re.compile(r"level_share_(\d+)"), "Contribution of level {0}"),
    (re.compile(r"level_similarity_(\d+)_(\d+)"), "Similarity of levels {0} and {1}"),
)
"""Metrics of levels, which count from 1 on the page."""
SHARES = re.compile(
    r"(probe/)?(knn|miou|linear|patch_knn)\w*|accuracy|correspondence(_chance)?|distinct_images|negative_share|data_wait|mfu"
)
"""Metrics of runs that are shown as percentages."""
EVALUATIONS = {
    "knn": "k-NN classification",
    "linear": "Linear classification",
    "finetune": "Fine-tuned classification",
    "segment": "Segmentation",
    "patch-knn": "Segmentation by nearest patches",
    "detect": "Detection",
    "depth": "Depth",
}
RESULTS = {
    "accuracy": "accuracy",
    "top5": "top-5 accuracy",
    "map": "mean average precision",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "delta1": "depth within 25 % (δ1)",
    "delta2": "depth within 56 % (δ2)",
    "delta3": "depth within 95 % (δ3)",
    "rmse": "RMSE, lower is better",
    "abs_rel": "relative error, lower is better",
}
"""Metrics of evaluations."""
SECTIONS = {
    "encoder": "Encoder",
    "framework": "Framework",
    "decoder": "Decoder",
    "reconstruction": "Reconstruction",
    "views": "Views",
    "optim": "Optimizer",
    "loader": "Loader",
    "compute": "Compute",
    "runtime": "Runtime",
    "probe": "Probe",
}
WORDS = {"lr": "learning rate", "dim": "dimension", "n": "number of", "args": "arguments", "grad": "gradient"}


def metric_title(name: str) -> str:
    """The title of a metric of a run."""
    if name in METRICS:
        return METRICS[name]
    for pattern, title in PATTERNS:
        if match := pattern.fullmatch(name):
            return title.format(*(int(number) + 1 for number in match.groups()))
    return _spaced(name.replace("/", ": "))


def evaluation_title(name: object) -> str:
    """The title of an evaluation."""
    return EVALUATIONS.get(str(name), _spaced(str(name)))


def result_title(name: object) -> str:
    """The title of a metric of an evaluation, such as knn20 or accuracy@0.1."""
    base, at, share = str(name).partition("@")
    suffix = f" with {share} of the labels" if at else ""
    if match := re.fullmatch(r"knn(\d+)(_map)?", base):
        return f"{'mean average precision' if match[2] else 'accuracy'}, k = {match[1]}{suffix}"
    if match := re.fullmatch(r"shots(\d+)", base):
        return f"accuracy of {match[1]} images per class"
    return RESULTS.get(base, base.replace("_", " ")) + suffix


def setting_title(name: str) -> str:
    """The title of a setting: optim.weight_decay is Optimizer: weight decay."""
    section, dot, rest = name.partition(".")
    if not dot:
        return _spaced(name)
    words = [WORDS.get(word, word) for word in rest.replace(".", " ").split("_")]
    return f"{SECTIONS.get(section, _spaced(section))}: {' '.join(words)}"


def is_share(name: object) -> bool:
    """Whether a metric of a run is shown as a percentage."""
    return SHARES.fullmatch(str(name)) is not None


def result_is_share(name: object) -> bool:
    """Whether a metric of an evaluation is shown as a percentage."""
    return metric_kind(str(name)) is None


def write_metric(name: object, value: object) -> str:
    """The value of a metric of a run: a percentage for shares, otherwise a number."""
    return percent(value) if is_share(name) else format_number(value, 3)


def write_result(name: object, value: object) -> str:
    """The value of a metric of an evaluation: a percentage for shares, otherwise a number with its unit."""
    number = finite_number(value)
    return percent(value) if number is None or result_is_share(str(name)) else describe_value(str(name), number)


def _spaced(name: str) -> str:
    text = name.replace("_", " ").strip()
    return f"{text[:1].upper()}{text[1:]}"
