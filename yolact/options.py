"""The options that several commands share."""

from typing import Annotated

import typer

from yolact.data.images import SixteenBit
from yolact.models.inference import Precision

MODEL_HELP = "A preset's name, a checkpoint file or an exported model."

DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
PresetOption = Annotated[
    str | None, typer.Option(help="Preset of a checkpoint file that does not say it.", show_default=False)
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        help="Of the network's weights and activations.",
        show_default="an exported model's own; fp32 for any other model",
    ),
]
IgnoreExifOption = Annotated[
    bool,
    typer.Option("--ignore-exif", help="Leave pictures as they are stored, for annotations made on stored pixels."),
]
SixteenBitOption = Annotated[
    SixteenBit,
    typer.Option(
        "--16-bit",
        help="Of 16-bit pictures: keep the high byte, or scale the largest value to 255, for data of fewer bits.",
    ),
]
