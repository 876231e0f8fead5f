"""Which ground trains, which validates and which tests."""
