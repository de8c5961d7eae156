"""Evaluation of classifiers: metrics with intervals, slices, mistakes, baselines, and a report for people."""
