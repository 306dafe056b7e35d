"""`tfseg weights convert`: published weights made usable for a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from tfseg.commands.arguments import Positional
from tfseg.quiet import import_tensorflow


@dataclass(frozen=True)
class Weights:
    """Convert published weights of SqueezeNet or ShuffleNetV2 and check every layer of the result.

    Reads what Caffe (.caffemodel), PyTorch (.pth, .pt: the state dictionary of torchvision's network), safetensors and
    NumPy (.npz: NAME/kernel and NAME/bias in height, width, inputs, outputs) write. Nothing of the file is run.

    For example:
        tfseg weights convert squeezenet1_1.pth --backbone squeezenet_1_1 --out squeezenet.weights.h5
        tfseg train my_data --backbone squeezenet_1_1 --weights squeezenet.weights.h5
    """

    action: Annotated[Positional[Literal["convert"]], tyro.conf.arg(metavar="convert")]
    """What is done with the file."""
    file: Annotated[Positional[str], tyro.conf.arg(metavar="FILE")]
    """A .caffemodel, .npz, .pth, .pt or .safetensors file."""
    backbone: Literal["squeezenet_1_0", "squeezenet_1_1", "shufflenet_v2", "shufflenet_v2_x0_5"]
    """The network that the weights are for."""
    out: str
    """The .weights.h5 file to write."""
    trained_with: Literal["auto", "caffe", "torch"] = "auto"
    """What images a SqueezeNet expects: Caffe's (BGR minus its mean) or PyTorch's (standardised RGB); auto: PyTorch's
    if the file is one of its kinds."""

    def run(self) -> int:
        import_tensorflow()
        from tfseg.models.conversion import convert_weights

        difference = convert_weights(self.file, self.backbone, self.out, self.trained_with)
        print(f"{self.out}: every layer agrees with {self.file}; largest relative difference {difference:.1e}")
        return 0
