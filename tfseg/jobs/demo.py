"""The main job on built-in synthetic lesions, from images to a served prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tfseg.data.phantom import PhantomConfig
from tfseg.data.phantom_folder import phantom_folder
from tfseg.errors import ConfigError
from tfseg.export.predictions import predict_folder
from tfseg.jobs.comparison import describe_files, run_comparison
from tfseg.jobs.export import export_run
from tfseg.presets import DEMO
from tfseg.run import Run, read_json

PHANTOM_SIZE = 96
NEW_IMAGES = 12
# With fewer, a class can be missing from a part of the split.
FEWEST_IMAGES = 30


def run_demo(out: str | Path, images: int = 480, seed: int = 0, command: str = "", say=print) -> Run:
    """Draw lesions, compare four approaches, export the best, check it, and predict new images with the export.

    Args:
        out: folder of everything: ``data/``, ``run/``, ``saved_models/``, ``new_images/`` and ``predictions/``.
            The same command goes on where it stopped.
        images: number of synthetic cases.
        seed: of the drawing and the training.
        command: for the records.
        say: takes the lines that tell what is going on.

    Raises:
        ConfigError: too few images for three parts with all classes, or a negative seed.
        RunError: when `out` holds something else.
    """
    if images < FEWEST_IMAGES:
        raise ConfigError(f"`images` must be at least {FEWEST_IMAGES}, received {images}")
    if seed < 0:
        raise ConfigError(f"`seed` must be at least 0, received {seed}")
    out = Path(out)
    data = phantom_folder(out / "data", PhantomConfig(images=images, size=PHANTOM_SIZE, seed=seed))
    run = run_comparison(
        replace(DEMO, data=str(data), seed=seed), out / "run", experiment="demo", command=command, say=say
    )
    models = out / "saved_models"
    parity = models / "demo" / "parity.1.json"
    if not parity.exists():
        export_run(run.folder, "demo", out=models)
    report = read_json(parity)
    for kind in ("saved_model", "litert"):
        difference = report[kind]["max_difference"]["probabilities"]
        say(f"{kind} agrees with Keras on {report['images']} images: largest difference {difference:.1e}")
    new = phantom_folder(out / "new_images", PhantomConfig(images=NEW_IMAGES, size=160, seed=seed + 1))
    predict_folder(models / "demo", [new / "images"], out / "predictions")
    say(
        f"\n{describe_files(run)}\n"
        f"TF-Serving    {models / 'demo' / '1'}\n"
        f"phone         {models / 'demo' / 'demo.float32.tflite'}\n"
        f"new images    {out / 'predictions' / 'predictions.csv'}, {out / 'predictions' / 'overlays'}"
    )
    return run
