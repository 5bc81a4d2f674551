"""Pages for people, from the tables of a summary: numbers rounded, with units, as Markdown, and as one HTML file."""
