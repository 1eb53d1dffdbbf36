"""Positions of photographs that are trusted, as those of RTK, and models in metres by them."""
