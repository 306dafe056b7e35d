"""Whole jobs made of the parts: compare, demonstrate, evaluate, export."""
