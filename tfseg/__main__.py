"""`python -m tfseg` is the `tfseg` command."""

from tfseg.cli import main

main()
