"""Pairs: lists read, written and joined, and lists made from names, looks, places or a model."""
