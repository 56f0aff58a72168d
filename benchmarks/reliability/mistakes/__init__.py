"""Bad inputs, by the room that has to refuse them; `base` says what a mistake is."""
