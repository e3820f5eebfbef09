"""The steps of `topohead register`."""
