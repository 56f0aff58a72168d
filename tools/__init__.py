"""What makes the pages and pictures of docs/."""
