"""Progress bars with the time left; on a pipe each prints one line when it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs.

    Args:
        description: what is being done.
        total: number of steps.

    Yields:
        ``advance(steps=1, note="")``: moves the bar and shows a short note behind it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    started, latest = time.monotonic(), ""
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal latest
            latest = note or latest
            progress.update(task, advance=steps, note=latest)

        yield advance
    line = f"{description}  {time.monotonic() - started:.1f} s"
    console.print(f"{line}  {latest}" if latest else line, highlight=False, soft_wrap=True)
