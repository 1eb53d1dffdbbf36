"""Synthetic training pairs: two views of photographs with exact dense correspondence."""
