from .job import TimingJob as TimingJob
from .job import TimingSample as TimingSample
from .job import TimingSubject as TimingSubject
from .loadgen import cross_check as cross_check
from .loadgen import is_installed as is_installed
from .memory import measure_memory as measure_memory
from .model import time_model as time_model
from .processes import time_jobs as time_jobs
