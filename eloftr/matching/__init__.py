"""Matching for programs: grey arrays in, sub-pixel matches in their own pixels out."""
