"""The package's version, the one place that says it: pyproject.toml and CMakeLists.txt read it here."""

__version__ = "0.1.0"

# The number of the operators' schemas, which setup.py and CMake compile into the libraries. Python and the runtime
# refuse a library with another number. Raise it with every change of a schema: it is forbidden to add an argument
# without that.
OPERATOR_SCHEMA = 1
