"""Hyper-parameter search: the space, the proposals, the trials, and what is written of them."""
