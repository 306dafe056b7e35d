"""From a Keras inference graph to what a server or a phone loads, and back to predictions."""
