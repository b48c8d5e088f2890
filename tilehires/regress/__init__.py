"""Regression renders: a suite is rendered anew and compared with approved baselines, so that CI fails when a render drifts."""
