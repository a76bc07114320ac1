"""Measurements: each file is a program that prints what it measured."""
