"""The package's version, the one place that says it: pyproject.toml and CMakeLists.txt read it here."""

__version__ = "0.1.0"
