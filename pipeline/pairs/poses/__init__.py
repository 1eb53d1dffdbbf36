"""Known poses of photographs: files of other programs that hold them, and pairs of them."""
