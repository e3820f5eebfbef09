"""What `topohead train` can train, and the parts that all of it shares."""
