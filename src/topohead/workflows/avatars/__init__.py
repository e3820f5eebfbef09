"""The steps of `topohead avatar`."""
