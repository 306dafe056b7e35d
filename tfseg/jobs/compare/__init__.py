"""Paired comparisons between runs and tables of predictions."""
