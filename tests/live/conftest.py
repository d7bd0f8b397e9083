"""A live test that fails is run again only where the machine did not keep time meanwhile, and left out where it never did.

On a machine that keeps time a failure counts at once. Elsewhere three attempts are made, each with its own fixtures.
"""

from __future__ import annotations

import pytest
from _pytest.runner import runtestprotocol

from benchmarks.trust.steady import Steady

ATTEMPTS = 3


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if item.get_closest_marker("live") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for left in reversed(range(ATTEMPTS)):
        with Steady() as machine:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = [report for report in reports if report.failed]
        if not failed or machine.kept:
            break
        if left:
            item._initrequest()  # fixtures of the next attempt's own
    for report in reports:
        if report.failed and not machine.kept:
            path, line, _ = item.location
            report.outcome = "skipped"
            report.longrepr = (str(path), line, f"Skipped: not to be judged, {ATTEMPTS} times over: {machine.said}")
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
