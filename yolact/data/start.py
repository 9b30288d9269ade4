"""Checks data before a run's first step, so that the run does not fail later for a reason that could be known now."""

from collections.abc import Sequence

from yolact.data.annotations import MOST_UNUSABLE, Annotations
from yolact.data.classes import partners
from yolact.data.coco import CocoDataset
from yolact.data.pictures import picture_problems, read_headers
from yolact.data.problems import DataError, counted, some_of, summary

_HEADERS_READ = 1000  # roughly; the other pictures are checked when training reads them


def check_training_data(dataset: CocoDataset, max_unusable: float = MOST_UNUSABLE) -> list[str]:
    """Checks the data of a training run and returns one line for each kind of problem.

    Args:
        dataset: to train on.
        max_unusable: the share of its pictures that may be broken or have another size than annotated.

    Raises:
        DataError: if there is nothing to learn, or if too many of the checked pictures cannot be used.
    """
    annotations = dataset.annotations
    require_objects(annotations, "learn from")
    step = max(1, len(annotations.images) // _HEADERS_READ)
    images = annotations.images[::step]
    problems = picture_problems(annotations, images, read_headers(annotations, images))
    unusable = [problem for problem in problems if problem.kind in ("broken picture", "size contradicts the picture")]
    if len(unusable) > 1 and len(unusable) > max_unusable * len(images):
        raise DataError(
            f"{annotations.path}: {len(unusable)} of {counted(len(images), 'picture')} cannot be used, for example "
            f"{unusable[0].text}"
        )
    return annotations.summary() + [f"{annotations.path}: {line}" for line in summary(problems)]


def require_objects(annotations: Annotations, purpose: str) -> None:
    """Raises DataError with the reason if there is no object. `purpose` ends the sentence "there is nothing to …"."""
    if any(not entry.crowd for entry in annotations.objects):
        return
    if annotations.objects:
        why = f"all of its {counted(len(annotations.objects), 'annotation')} are crowds (iscrowd 1)"
    elif annotations.annotated:
        why = "none of its annotations belongs to an image that can be used"
    else:
        why = "it has no annotation"
    raise DataError(f"{annotations.path}: there is nothing to {purpose}: {why}")


def require_known_classes(training: Sequence[str], validation: Annotations) -> None:
    """Raises DataError if the validation data have objects of a class that training does not have."""
    used = {entry.label for entry in validation.objects}
    unknown = [entry.name for label, entry in enumerate(validation.categories) if label in used]
    known = partners(unknown, training)
    unknown = [name for name in unknown if name not in known]
    if unknown:
        raise DataError(
            f"{validation.path}: validation has objects of {some_of(unknown)}, but the classes of training are "
            f"{some_of(training)}"
        )
