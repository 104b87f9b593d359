"""A model whose answers are given by a script.

It needs no device, and speaks the chat format of `tiny-random`.
"""
