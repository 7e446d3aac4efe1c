"""The job of every night: from a source to a published generation, at the cost of what changed.

`read_job` reads its file, `check_job` looks at the source's metadata, `rebuild` carries it out. Knows the order of the
steps; each is done elsewhere.
"""

from index_builders.rebuild.check_job import Checked, check_job
from index_builders.rebuild.job_file import JobSettings, read_job
from index_builders.rebuild.report import Outcome, RebuildReport
from index_builders.rebuild.run import rebuild

__all__ = ["Checked", "JobSettings", "Outcome", "RebuildReport", "check_job", "read_job", "rebuild"]
