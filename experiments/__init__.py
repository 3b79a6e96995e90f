"""What happens on data: one file a paper, each with presets `smoke` and larger ones."""
