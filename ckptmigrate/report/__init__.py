"""Documents, and their forms: lines for a terminal, HTML, Markdown and JSON."""
