"""Runners: one artifact, loaded on one backend, behind one small protocol."""
