"""Rerank the candidates of a retrieval by their verified matches."""
