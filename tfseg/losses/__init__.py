"""Losses: pure functions of tensors, and the registered Keras losses made of them."""
