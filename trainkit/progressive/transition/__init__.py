"""From one stage's model to the next one's: bigger, smaller, and when to switch."""
