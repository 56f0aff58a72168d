"""Programs that show a violation and stand alone: rules and values as code."""
