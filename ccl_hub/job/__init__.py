"""A batch job: every video embedded into one destination, exactly once."""

from .events import JobSummary, VideoEvent
from .options import JobInputs, JobOptions
from .run import run_job

__all__ = ["JobInputs", "JobOptions", "JobSummary", "VideoEvent", "run_job"]
