from .command import main as main
from .command import write_report as write_report
from .data import ReportError as ReportError
from .published import declared_published as declared_published
from .row_sources import RowSources as RowSources
