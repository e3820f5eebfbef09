"""The frames of one performer: one identity, each frame from the one before, written as a run."""
