"""Tests of the rig's own parts: `python3 -m unittest discover -s tests -t .` in load-tests/."""
