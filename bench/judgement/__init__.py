"""Judgements on records: regressions between two of them, and the artifact to ship."""
