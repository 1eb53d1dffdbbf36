"""Faster forms of PyTorch operations that the network uses, and the GPU kernels among them."""
