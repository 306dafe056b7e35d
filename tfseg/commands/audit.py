"""`tfseg audit`."""

from __future__ import annotations

from dataclasses import dataclass

from tfseg.commands.arguments import Data
from tfseg.errors import DataError


@dataclass(frozen=True)
class Audit:
    """Count classes and parts of a dataset and name what is wrong with it; exit 1 if something is.

    For example:
        tfseg audit my_data
        tfseg audit my_data --out runs/audit --split-file runs/soft/splits.json
        tfseg audit my_data --allow duplicate_across_labels
    """

    data: Data
    """A folder with labels.csv and images/, or NAME:PATH."""
    target: str = "label"
    """The column to learn."""
    allow: tuple[str, ...] = ()
    """Kinds of errors to count as warnings."""
    out: str | None = None
    """Folder for audit.html (with pictures) and audit.json; new, empty, or of an earlier audit."""
    split_file: str | None = None
    """A splits.json: its parts are audited, of all folds, and not those of the `split` column."""

    def run(self) -> int:
        from tfseg.data.audit import audit_cases
        from tfseg.data.audit_page import audit_text, check_audit_folder, write_audit
        from tfseg.data.checks import check_allowed
        from tfseg.data.sources import load_cases
        from tfseg.data.splits import read_split
        from tfseg.progress import progress_bar

        check_allowed(self.allow)
        if self.out is not None:
            check_audit_folder(self.out)
        try:
            cases = load_cases(self.data, self.target)
        except DataError as error:
            if any(problem.kind in ("no_folder", "no_table", "target") for problem in error.problems):
                raise
            # The table alone is enough to see that something is wrong; a DataError's own text is shortened.
            lines = [f"  {problem}" for problem in error.problems]
            print("\n".join([f"{len(lines)} error{'s' if len(lines) != 1 else ''} in {self.data}:", *lines]))
            return 1
        splits = None if self.split_file is None else read_split(self.split_file, cases)
        with progress_bar(f"auditing {len(cases)} cases", len(cases)) as advance:
            audit = audit_cases(cases, splits, self.allow, advance)
        print(audit_text(audit))
        if self.out is not None:
            print(f"\nwritten to {write_audit(audit, cases, self.out)}")
        return 0 if audit.ok else 1
