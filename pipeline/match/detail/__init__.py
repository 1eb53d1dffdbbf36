"""Finer passes over large photographs: their overlap matched again in tiles, at 2 and 4 times."""
