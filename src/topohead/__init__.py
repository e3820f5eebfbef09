"""Studio-topology human heads from cameras, scans, photos or a random seed."""

__version__ = "0.1.0"
