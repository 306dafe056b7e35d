"""Segmentation-driven classification of medical images in Keras 3 on TensorFlow.

Importing the package imports neither TensorFlow nor pandas: every module that needs them is imported where
it is used, so that ``import tfseg`` and ``tfseg --help`` answer at once.
"""

__version__ = "0.1.0"
