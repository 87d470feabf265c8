"""HTML pages that need no network, and the templates, styles and scripts that they are made of."""
