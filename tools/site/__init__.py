"""What the documentation site has beside docs/: read by mkdocs.yml."""
