"""The folder of a run: its records, written whole or not at all, and resumed when the configuration matches."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from tfseg.errors import RunError, UserError

PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "scipy", "opencv-python-headless", "pillow")
# What a run that has finished nothing may have written.
RECORDS = (
    "config.json",
    "environment.json",
    "data.json",
    "splits.json",
    "models",
    "outputs",
    "history",
    "audit.json",
    "audit.html",
    "state.json",
    "cells",
    "checkpoints",
    "tensorboard",
)


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, renamed to `path` when the block ends well.

    The temporary name keeps the suffix, because Keras and matplotlib choose the format by it. A file or folder
    that stood there is replaced.

    Raises:
        RunError: when the disk is full or the folder can't be written; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if path.is_dir() and not path.is_symlink():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                old.rename(path)
                raise
            _remove(old)
        else:
            temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"no space left on the disk while writing {path}; what was finished before is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file whole or not at all; NaN and infinity become null, NumPy numbers plain ones."""
    write_text(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: when the file is missing or isn't JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: the folder is not a run, or its run did not get that far") from error
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def recorded_path(path: str | Path) -> str:
    """A path, or ``NAME:PATH``, as records show it: relative to ``$TFSEG_DATA`` where it lies inside, else as given."""
    text = str(path)
    base = os.environ.get("TFSEG_DATA")
    if not base:
        return text
    name, colon, rest = text.partition(":")
    prefix, inner = (f"{name}:", rest) if colon and not Path(text).exists() else ("", text)
    try:
        inside = Path(inner).resolve().relative_to(Path(base).resolve())
    except ValueError:
        return text
    return f"{prefix}{Path('$TFSEG_DATA') / inside}"


def recorded_command(arguments: list[str] | None = None) -> str:
    """The command line that runs now, with data paths relative to ``$TFSEG_DATA``."""
    arguments = list(sys.argv if arguments is None else arguments)
    program = Path(arguments[0]).name
    words = ["tfseg"] if program in ("tfseg", "__main__.py") else ["python", f"experiments/{program}"]
    for word in arguments[1:]:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        path = value.partition(":")[2] or value
        exists = os.sep in value and (Path(value).exists() or Path(path).exists())
        words.append(f"{option}{equals}{recorded_path(value)}" if exists else word)
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    import shlex

    plain = word.replace("$TFSEG_DATA", "")
    # Single quotes would keep the shell from filling in the variable.
    return shlex.quote(word) if plain == word else word if shlex.quote(plain) == plain else f'"{word}"'


def environment(seed: int, fingerprint: str) -> dict:
    """Versions, devices, git commit, data fingerprint and seed, as ``environment.json`` keeps them."""
    import tensorflow as tf

    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "tfseg": metadata.version("tfseg") if _installed("tfseg") else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "devices": [device.device_type for device in tf.config.list_logical_devices()],
        "packages": versions,
        "git_commit": _git_commit(),
        "data_fingerprint": fingerprint,
        "seed": seed,
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


class Run:
    """A run folder: `config.json` says what it is, `report.html`, written last, that it is finished.

    Args:
        folder: the folder; see `open`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @classmethod
    def open(cls, out: str | Path | None, config: dict, base: str | Path = "runs") -> Run:
        """Make or resume the folder of a configuration.

        Args:
            out: the folder. One whose ``config.json`` equals `config` is resumed. None makes
                ``base/<experiment>/<time>/``, or resumes the newest unfinished run with this configuration.
            config: the configuration as plain JSON values, with the key ``experiment``.
            base: where folders without a given name go.

        Raises:
            RunError: when `out` is a file, belongs to another configuration, or isn't empty and isn't a run.
        """
        config = json.loads(json.dumps(_plain(config)))
        if out is None:
            parent = Path(base) / config["experiment"]
            for folder in sorted(parent.glob("*/config.json"), reverse=True):
                if not cls(folder.parent).finished and read_json(folder) == config:
                    return cls(folder.parent)
            run = cls(_unused(parent / time.strftime("%Y%m%d-%H%M%S")))
        else:
            run = cls(out)
            if run.folder.is_file():
                raise RunError(f"`--out` must be a folder, and {out} is a file")
            if run.path("config.json").exists():
                _same_config(read_json(run.path("config.json")), config, run.folder)
                return run
            if run.folder.is_dir() and any(not entry.name.startswith(".") for entry in run.folder.iterdir()):
                raise RunError(f"`--out` {out} is not empty and holds no config.json: give a new or an empty folder")
        write_json(run.path("config.json"), config)
        return run

    def path(self, *parts: str) -> Path:
        """A path inside the run."""
        return self.folder.joinpath(*parts)

    @property
    def config(self) -> dict:
        """The configuration that made the run."""
        return read_json(self.path("config.json"))

    @property
    def finished(self) -> bool:
        """Whether everything was computed and written; a grid says so itself, else the report is written last."""
        if self.path("state.json").exists():
            return read_json(self.path("state.json"))["state"] == "finished"
        return self.path("report.html").exists()

    @contextlib.contextmanager
    def withdrawn_on_mistake(self) -> Iterator[None]:
        """Take the records back when the block ends with a `UserError` and nothing was finished.

        Otherwise the folder would belong to the mistaken configuration, and refuse the corrected one.
        """
        try:
            yield
        except UserError:
            if not self.finished and not any(self.path("cells").glob("*.json")):
                for name in RECORDS:
                    _remove(self.path(name))
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
            raise

    def cell(self, name: str, compute: Callable[[], dict]) -> dict:
        """Compute a part of the run once: its result is read back when the run is resumed.

        Args:
            name: unique in the run; the result is kept as ``cells/<name>.json``.
            compute: gives a JSON-able dictionary; everything else that it makes must be written before it
                returns.
        """
        path = self.path("cells", f"{name}.json")
        if not path.exists():
            started = time.monotonic()
            result = compute()
            write_json(path, {**result, "seconds": round(time.monotonic() - started, 1)})
        return read_json(path)

    @property
    def spent(self) -> float:
        """Seconds that the stored cells took, whichever command computed them."""
        return sum(read_json(path)["seconds"] for path in self.path("cells").glob("*.json"))


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def _same_config(old: dict, new: dict, folder: Path) -> None:
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if different:
        shown = ", ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} asked" for key in different[:5])
        raise RunError(
            f"{folder} belongs to another run ({shown}); give another `--out`, or the same settings to resume"
        )
