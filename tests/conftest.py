"""What holds for the whole suite: properties are judged by what they find, never by how fast this machine was."""

from hypothesis import HealthCheck, settings

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
