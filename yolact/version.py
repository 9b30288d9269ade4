"""The package's version, the one place that says it: pyproject.toml and CMakeLists.txt read it here."""

__version__ = "0.1.0"

# Of the operator library: what its schemas mean. Raise it with every change of them or of what an operator computes, so
# that no library from before is taken for one of today; a new argument without a new number is not allowed.
OPERATOR_SCHEMA = 1
