from .command import main as main
from .command import write_report as write_report
from .data import ReportError as ReportError
from .declared import declared_published as declared_published
from .row_sources import RowSources as RowSources
from .summary import Summary as Summary
from .summary import json_document as json_document
from .terminal import print_summary as print_summary
