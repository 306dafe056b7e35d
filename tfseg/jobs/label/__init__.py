"""Semi-automatic labelling: the training, the drawn masks, and what to review."""
