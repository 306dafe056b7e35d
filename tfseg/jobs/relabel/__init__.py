"""Labelling put to the test: true masks are hidden, drawn by a labelling, and compared with what was drawn."""
