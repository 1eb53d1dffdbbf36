"""Measure the tracks of a sparse model again, one task for each reference view."""
