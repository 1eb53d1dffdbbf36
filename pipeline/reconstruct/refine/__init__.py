"""Make a sparse model exact: every track is measured against one view of it, and completed."""
