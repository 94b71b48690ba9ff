"""Bytes and operations of every op, and the times that they predict."""
