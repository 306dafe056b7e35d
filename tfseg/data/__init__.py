"""Where images come from: cases, sources, checks, splits, batches, synthetic lesions."""
