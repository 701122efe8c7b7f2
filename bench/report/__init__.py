"""One record → terminal, Markdown, CSV and the files of a run."""
