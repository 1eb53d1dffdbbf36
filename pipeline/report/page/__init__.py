"""One page that shows a run: the data of its views, and what a browser draws them with."""
