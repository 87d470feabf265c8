"""HTML pages that need no network, and their templates, styles and scripts."""
