"""Reports for `--report FILE`: a value, and what it looks like as HTML, Markdown and JSON."""
