"""Figures against named peers. Each file is one command: python -m benchmarks.NAME"""
