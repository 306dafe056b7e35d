"""A folder of synthetic lesions that is drawn once."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.errors import RunError
from tfseg.progress import progress_bar
from tfseg.run import read_json, write_json


def phantom_folder(folder: Path, config: PhantomConfig) -> Path:
    """Draw lesions into a new folder, with a progress bar; one that was drawn with these settings stays as it is.

    Args:
        folder: in the plain layout then; its settings are kept beside it, as ``<folder>.json``.
        config: what to draw.

    Raises:
        RunError: the folder was drawn with other settings, or by something else.
    """
    settings = json.loads(json.dumps(asdict(config)))
    record = folder.with_name(f"{folder.name}.json")
    if folder.exists():
        if not record.exists() or read_json(record) != settings:
            raise RunError(f"{folder} was not drawn with these settings; give another `--out`")
        return folder
    write_json(record, settings)
    with progress_bar(f"drawing {config.images} lesions, {folder.name}", config.images) as advance:
        return write_phantoms(config, folder, progress=lambda done, total: advance())
