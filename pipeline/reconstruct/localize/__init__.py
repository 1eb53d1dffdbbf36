"""Where photographs were taken, in a given COLMAP model."""
