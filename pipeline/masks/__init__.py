"""Masks: which pixels of a photograph are left out of the work."""
