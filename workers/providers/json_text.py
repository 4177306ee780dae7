"""JSON that somebody else wrote."""

import msgspec

NO_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What decoding raises for bytes that are no JSON of the wanted form, are no text, or are nested too deeply."""
