"""One module per stage of the path from raw data to a report: a typed config and one `run`."""
