"""Scripts for `ray job submit`: each is one command of `eloftr`."""
