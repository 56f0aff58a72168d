"""Programs as growth reads them: traced, made flat and rewritten to one form."""
