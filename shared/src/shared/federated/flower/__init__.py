"""Flower as the second engine: the same rounds, with clients in other processes or on other machines.

It needs the extra ``medley-shared[federated]``, to simulate ``medley-shared[simulation]``.
"""

import os

# Read when flwr and ray are imported. Nothing is reported to anybody unless the user asks for it.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
