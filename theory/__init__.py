"""Theorems checked in numbers: one claim each, with an oracle that shares no code with jaxcert."""
