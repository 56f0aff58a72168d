"""States whose slots are no trees like the parameters: one file a class."""
