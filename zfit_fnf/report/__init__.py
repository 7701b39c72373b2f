"""Reports of analyses: one HTML file that contains everything it shows."""

from .html import write_report

__all__ = ["write_report"]
