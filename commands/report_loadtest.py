"""`loadtest report`: a load test that was saved before, as a page or a table."""

from __future__ import annotations

from . import loadtest_options as load
from . import options as opt
from .terminal import printed


def report_loadtest(
    report: load.ReportArgument, save: load.SavedOption, as_json: opt.JsonOption = False
) -> None:
    """Write a saved load test as a page, as a table, or for Prometheus."""
    from ..api.report_loadtest import saved_loadtest
    from ..views import loadtest_files as files

    files.require_writable(save)
    document = saved_loadtest(report)
    files.save(save, document)
    printed(as_json, document)
