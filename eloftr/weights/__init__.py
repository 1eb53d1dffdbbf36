"""Weights: the bundled ones, the names of their parameters, reading and writing."""
