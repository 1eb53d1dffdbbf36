"""Photographs: which files are photographs, and their bytes as upright grey pixels with a row."""
