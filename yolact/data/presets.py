"""Paths of the files of known data sets."""

from dataclasses import dataclass, replace
from pathlib import Path

from yolact.config import COCO_CLASSES, PASCAL_CLASSES
from yolact.data.shapes import CLASS_NAMES


@dataclass(frozen=True)
class DataPreset:
    """Paths of a data set with COCO-format annotations, relative to its folder. `under` puts the folder before them."""

    name: str
    train_annotations: Path
    train_images: Path
    val_annotations: Path
    val_images: Path
    class_names: tuple[str, ...]  # by rising category id

    def under(self, folder: Path) -> "DataPreset":
        """The same preset with `folder` before each path."""
        return replace(
            self,
            train_annotations=folder / self.train_annotations,
            train_images=folder / self.train_images,
            val_annotations=folder / self.val_annotations,
            val_images=folder / self.val_images,
        )


def _coco(year: int) -> DataPreset:
    return DataPreset(
        f"coco{year}",
        Path(f"annotations/instances_train{year}.json"),
        Path(f"train{year}"),
        Path(f"annotations/instances_val{year}.json"),
        Path(f"val{year}"),
        COCO_CLASSES,
    )


DATA_PRESETS: dict[str, DataPreset] = {
    preset.name: preset
    for preset in (
        _coco(2017),
        _coco(2014),
        # Pascal VOC's classes with the masks of the Semantic Boundaries Dataset, as the original converted them.
        DataPreset(
            "pascal_sbd",
            Path("pascal_sbd_train.json"),
            Path("img"),
            Path("pascal_sbd_val.json"),
            Path("img"),
            PASCAL_CLASSES,
        ),
        DataPreset(
            "shapes",
            Path("annotations/train.json"),
            Path("train"),
            Path("annotations/val.json"),
            Path("val"),
            CLASS_NAMES,
        ),
    )
}


def get_data_preset(name: str) -> DataPreset:
    """The data set called `name`.

    Raises:
        ValueError: if there is none. The message lists the names.
    """
    if name not in DATA_PRESETS:
        raise ValueError(f"no data set is called {name!r}; choose one of: {', '.join(DATA_PRESETS)}")
    return DATA_PRESETS[name]
