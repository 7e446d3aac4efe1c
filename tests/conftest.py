"""What holds for every test: properties are judged by their examples, never by how long one took on this machine."""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
