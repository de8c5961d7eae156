"""Retrieval, judged: which passages come first for the queries that were held out."""
