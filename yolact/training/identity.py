"""What makes a run the same run when it is resumed."""

import hashlib
from collections.abc import Mapping
from typing import Any

from yolact.config import Preset
from yolact.data.coco import CocoDataset
from yolact.data.problems import counted
from yolact.training.settings import TrainingSettings


def run_identity(
    preset: Preset,
    train_data: CocoDataset,
    settings: TrainingSettings,
    share_size: int | None,
    val_data: CocoDataset | None = None,
) -> dict[str, Any]:
    """What makes a run the same run, by name. It is part of each checkpoint and compared when the run is resumed.

    Args:
        preset: of the network.
        train_data: to learn from.
        settings: those that decide what the run learns are taken.
        share_size: images of one forward pass where batch norms learn, as their statistics are those of a share.
            None where they are frozen: the number of processes and shares may then change.
        val_data: to validate with, if any.
    """
    reading = train_data.annotations.reading
    return {
        "preset": preset.name,
        "class_names": list(train_data.class_names),
        "training data": data_identity(train_data),
        "validation data": None if val_data is None else data_identity(val_data),
        "ignore_exif": reading.ignore_exif,
        "sixteen_bit": reading.sixteen_bit,
        "images of a share": share_size,
        **settings.deciding(len(train_data)),
    }


def data_identity(data: CocoDataset) -> dict[str, str]:
    """A data set in a few words, and digests of what its annotations say. They are equal for equal annotations.

    The place of the files does not matter, and pixels are not looked at.
    """
    annotations = data.annotations
    places = {image.id: place for place, image in enumerate(annotations.images)}
    parts: dict[str, list[Any]] = {
        "names or ids of images": [(image.id, image.name) for image in annotations.images],
        "sizes of images": [(image.width, image.height) for image in annotations.images],
        "classes": [(category.id, category.name) for category in annotations.categories],
        "classes of objects": [(places[entry.image_id], entry.label) for entry in annotations.objects],
        "crowds": [(places[entry.image_id], entry.crowd) for entry in annotations.objects],
        "boxes": [(places[entry.image_id], entry.bbox) for entry in annotations.objects],
        "masks": [(places[entry.image_id], entry.counts) for entry in annotations.objects],
    }
    digests = {}
    for name, values in parts.items():
        digest = hashlib.sha256()
        for value in values:
            digest.update(repr(value).encode("utf-8", "surrogatepass"))
        digests[name] = digest.hexdigest()
    counts = f"{counted(len(places), 'image')} with {counted(len(annotations.objects), 'object')}"
    return {"counts": counts, **digests}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the identity of a saved run and that of this one, in words.

    A run that had no validation may get one.
    """
    found = []
    for name, value in now.items():
        earlier = before.get(name)
        if earlier == value or (name == "validation data" and earlier is None):
            continue
        if isinstance(earlier, dict) and isinstance(value, dict) and earlier["counts"] == value["counts"]:
            changed = [part for part in value if earlier.get(part) != value[part]]
            found.append(f"{name} with other {', '.join(changed)} ({value['counts']}, as now)")
        else:
            found.append(f"{name} {_in_words(earlier)} (now {_in_words(value)})")
    return found


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return f"of {value['counts']}"
    return "none" if value is None else str(value)
