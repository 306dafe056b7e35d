"""Shared fixtures; the device is fixed before TensorFlow starts."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real datasets; tests that need it are skipped where it is missing."""
    folder = os.environ.get("TFSEG_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data is missing: set TFSEG_DATA to the folder that holds ph2/, herlev/, weights/ …")
    return Path(folder)
