"""What a trained model is worth: scores, intervals, figures and the report of a run."""
