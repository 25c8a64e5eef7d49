"""For every room: what Hypothesis finds must be true of the code, not of how busy the machine is.

A commit is tried with the same cases everywhere. PODWIRE_EXPLORE=1 looks for new ones, and remembers those that fail.
"""

import os

from hypothesis import HealthCheck, settings

same = {} if os.environ.get("PODWIRE_EXPLORE") else {"derandomize": True, "database": None}
settings.register_profile("podwire", deadline=None, suppress_health_check=[HealthCheck.too_slow], **same)
settings.load_profile("podwire")
