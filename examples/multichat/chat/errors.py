class Unavailable(Exception):
    """It cannot be done now, but perhaps later."""


class Refused(Exception):
    """It is not accepted, and will never be."""
