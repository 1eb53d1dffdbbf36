"""The commands of `eloftr`: each module holds one, as `command`."""
