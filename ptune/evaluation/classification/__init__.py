"""Evaluation of classifiers: metrics with intervals, slices, mistakes, baselines, a report that people can read."""
