"""One page of HTML that says what was learned, from what, and how it went."""

from stackedae.report.page import Report, make_report

__all__ = ["Report", "make_report"]
