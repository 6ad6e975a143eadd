"""What is published names no place of the machine it was measured on: of a path only its last part is kept."""

import os
import pathlib
import re
import shlex

# A path from the root; not the rest of a URL, of a ratio or of a relative path.
ABSOLUTE = re.compile(r"(?<![\w.:/~-])/([^\s/:,;'\"()]+)(?:/[^\s/:,;'\"()]+)*")


def text(said):
    """Paths into directories that this machine has, shortened; `/f/64k` of a request is none and stays."""

    def shorten(found):
        return pathlib.PurePath(found[0]).name if os.path.isdir(f"/{found[1]}") else found[0]

    return ABSOLUTE.sub(shorten, said)


def command(arguments, paths):
    """A command line; `paths` are the options whose values are paths, relative ones too."""
    shown, is_path = [], False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if is_path:
            argument = pathlib.PurePath(argument).name
        elif name in paths and equals:
            argument = f"{name}={pathlib.PurePath(value).name}"
        is_path = argument in paths
        shown.append(text(argument))
    return shlex.join(["load-tests/run", *shown])


def version(said):
    """What a program says of itself: name and version, without path, build hash, date and address."""
    said = text(said)
    envoy = re.search(r"(?:^|/)(\w*)\s+version: (\w+)/([\w.-]+)/\w+/\w+/(\w+)", said)
    if envoy:
        name, commit, number, library = envoy.groups()
        # A build outside of a repository has a hash of zeros.
        return f"{name} {number} ({', '.join([library] + [commit[:10]] * bool(commit.strip('0')))})"
    number = re.search(r"version:?\s+(?:\w+/)?(\S+)", said)
    name = re.match(r"\w+", said)
    return f"{name[0]} {number[1]}" if number and name else said
