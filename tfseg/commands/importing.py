"""`tfseg import`."""

from __future__ import annotations

from dataclasses import dataclass

from tfseg.commands.arguments import Data


@dataclass(frozen=True)
class Import:
    """Write a dataset in its publisher's layout as a plain folder: images/, masks/, labels.csv.

    For example:
        tfseg import ph2:PH2Dataset --out my_data
        tfseg import isic2018:downloads/isic2018 --out isic2018
    """

    data: Data
    """NAME:PATH, such as ph2:PH2Dataset."""
    out: str
    """Folder to write: new, empty, or of the same import, which goes on."""

    def run(self) -> int:
        from tfseg.data.importing import import_cases
        from tfseg.data.sources import load_cases
        from tfseg.progress import progress_bar

        cases = load_cases(self.data)
        for note in cases.notes:
            print(f"warning: {note}")
        with progress_bar(f"importing {len(cases)} cases", len(cases)) as advance:
            counts = import_cases(cases, self.out, advance)
        print(
            f"{counts['images']} images ({counts['transcoded']} transcoded to PNG) and {counts['masks']} masks "
            f"in {self.out}; {counts['there']} cases were there already"
        )
        return 0
