"""Tools for this repository: generated pages and pictures of docs/, and mutation testing."""
