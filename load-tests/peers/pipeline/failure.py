"""What ends a peer."""


class Failure(Exception):
    """Says in one sentence what is wrong."""
