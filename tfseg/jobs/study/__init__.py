"""Studies of segmenters: rows of changed settings, trained on runs or folds."""
