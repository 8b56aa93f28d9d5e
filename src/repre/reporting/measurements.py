"""What was measured with labels, from all sources, with its number of images: probes while a run trains, evaluations."""

from dataclasses import dataclass

from repre.reporting.run_data import Row, RunData, finite_number
from repre.reporting.titles import write_metric

ABOUT = {"knn": "k-NN accuracy", "linear": "Linear probe", "miou": "mIoU", "patch_knn": "Patch k-NN mIoU"}
"""What is measured -> its title."""
EVALUATION_OF = {"knn": "knn", "linear": "linear", "miou": "segment", "patch_knn": "patch-knn"}
"""What is measured -> the evaluation that measures it too."""
SCENES = 1000
"""Test images of the k-NN on the embedded scenes while a run trains."""


@dataclass(frozen=True)
class Measurement:
    """One measurement of the encoder with labels.

    Attributes:
        about: a key of `ABOUT`.
        value: a share.
        images: test images; None if that is not known.
        data: what was measured on.
        source: where the value comes from, in words.
    """

    about: str
    value: float
    images: int | None
    data: str
    source: str

    @property
    def in_words(self) -> str:
        """The value with its sample size."""
        count = "an unknown number of" if self.images is None else f"{self.images}"
        return f"{write_metric(self.about, self.value)} on {count} images ({self.source})"


def probe_measurements(run: RunData) -> list[Measurement]:
    """The last value of every probe after step 0."""
    found = []
    for name in dict.fromkeys(name for row in run.validations for name in row):
        about = name.removeprefix("probe/")
        steps, values = run.series(name, validations=True)
        if about not in ABOUT or not values or steps[-1] == 0:
            continue
        source = f"probe at step {steps[-1]:.0f}"
        found.append(Measurement(about, values[-1], probe_images(run, name), probe_data(run, name), source))
    return found


def differs(first: Measurement, second: Measurement) -> bool:
    """Whether two shares differ by more than 1.96 standard deviations of their difference."""
    counts = [one.images or SCENES for one in (first, second)]
    variance = sum(max(one.value * (1 - one.value), 0.0) / count for one, count in zip((first, second), counts))
    return abs(first.value - second.value) > 1.96 * variance**0.5


def probe_images(run: RunData, name: str) -> int | None:
    """Test images of a probe, as the run wrote down; those on the scenes are known."""
    entry = run.probes.get(name)
    count = finite_number(entry.get("test_images")) if isinstance(entry, dict) else None
    if count is not None:
        return int(count)
    return SCENES if name == "knn" else None


def probe_data(run: RunData, name: str) -> str:
    """What a probe is measured on, to compare it: the embedded scenes, or its labels."""
    return plain_data(probe_labels(run, name)) if "/" in name else "scenes"


def probe_labels(run: RunData, name: str) -> str:
    """The labels of a probe as the user named them: those that the run wrote down, else those of the config."""
    if isinstance(entry := run.probes.get(name), dict):
        return str(entry.get("data") or "")
    settings = run.config.get("probe")
    option = {"probe/knn": "knn", "probe/linear": "linear"}.get(name, "segment")
    return str(settings.get(option) or "") if isinstance(settings, dict) else ""


def measured_by(evaluation: str) -> str:
    """What an evaluation measures: a key of `ABOUT`, or the evaluation's own name."""
    return next((about for about, name in EVALUATION_OF.items() if name == evaluation), evaluation)


def images_tested(result: Row) -> int | None:
    """Test images of a stored evaluation."""
    details = result["details"] if isinstance(result.get("details"), dict) else {}
    counts = (finite_number(details.get(name)) for name in ("test_images", "val_images"))
    return next((int(count) for count in counts if count is not None), None)


def plain_data(spec: object) -> str:
    """The name of labeled data without what does not matter: a slash at the end, the number of scenes."""
    text = str(spec or "")
    return "scenes" if text.partition(":")[0] == "scenes" else text.rstrip("/")
