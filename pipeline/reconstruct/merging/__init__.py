"""From the matches of a run to keypoints that pairs share, and to a COLMAP database."""
