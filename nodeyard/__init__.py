"""Nodeyard: the right node for every pending pod, on EC2, at the lowest provable price."""

__version__ = "0.1.0"
