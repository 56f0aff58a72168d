"""The laws of schedules."""
