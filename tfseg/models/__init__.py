"""Functional builders: backbones, segmenters, classifiers, and the inference graphs made of them."""
