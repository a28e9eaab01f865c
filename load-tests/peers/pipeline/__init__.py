"""What the peers for Python have in common: everything but how rows are written."""
