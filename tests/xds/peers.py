"""Makes the modules of tests/peers importable, behind all others: one of them is named like grpcio's."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
