"""Readers and writers of pickles that do not execute them."""
