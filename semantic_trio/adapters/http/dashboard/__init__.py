"""The dashboard: a live page for people, served from this package."""
