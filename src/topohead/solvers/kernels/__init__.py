"""Compiled inner loops of the solvers: numpy arrays in, numpy arrays out."""
