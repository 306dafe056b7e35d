"""Metrics of masks and of saliency maps."""
