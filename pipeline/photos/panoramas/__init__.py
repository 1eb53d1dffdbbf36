"""Panoramas of 360°: which photographs are some, and the faces that the network sees of them."""
