"""The main job on a folder of images: one segmenter, four classifiers, one table.

Expect, on a few hundred images with masks: a lesion IoU of 0.85 or more, and classifiers above the floor of a
linear probe on the same pretrained features when `--weights` names them. From random weights the quick preset says
little on data this small. With the quick preset and a MobileNetV2 of 160 pixels it takes 5 to 15 minutes on two
cores.

    python experiments/quickstart.py --data my_data --preset quick --out runs/quickstart --weights imagenet
    python experiments/quickstart.py --data my_data --target binary --cross-validation 5
"""

import sys

from tfseg.cli import run_guarded
from tfseg.experiment import parse_experiment
from tfseg.presets import QUICKSTART_PRESETS
from tfseg.quiet import import_tensorflow
from tfseg.run import recorded_command


def run() -> int:
    experiment = parse_experiment(QUICKSTART_PRESETS, __doc__)

    import_tensorflow()
    from tfseg.jobs.comparison import describe_files, run_comparison

    finished = run_comparison(
        experiment.config,
        experiment.out,
        experiment="quickstart",
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
    )
    print(describe_files(finished))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run))
