"""The rig: processes, generators, results, charts. Python's standard library only."""
