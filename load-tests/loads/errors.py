"""What ends a run, and what only leaves a cell of the table empty."""


class Failed(Exception):
    """The run cannot go on, or its figures cannot be believed; the text is the whole report."""


class Unsupported(Exception):
    """A peer cannot do what a scenario asks; the text goes into the table."""
