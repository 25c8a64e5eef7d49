"""For every room: what Hypothesis finds must be true of the code, not of how busy the machine is."""

from hypothesis import HealthCheck, settings

settings.register_profile("podwire", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("podwire")
