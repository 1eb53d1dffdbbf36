"""The report page: a run, a reranking or two runs as one file that opens without a server."""
