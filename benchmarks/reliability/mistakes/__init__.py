"""Bad inputs, by the package that must refuse them; `base` defines a mistake."""
