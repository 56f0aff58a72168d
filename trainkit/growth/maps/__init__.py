"""From a plan to arrays: index maps and factors, and their arithmetic."""
