"""The options that several commands share."""

from typing import Annotated

import typer

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
