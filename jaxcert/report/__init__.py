"""From certificates to what is told about them.

Runs that survive kills (`certify_run`, and `certify_margins` where Lipschitz constants certify),
logs of this project and of the field's other tools (`read_log`), the numbers and curves that they
come down to (`summarize`, `plot_curves`), and a check of every radius against its counts or
margins (`recheck`).
"""

from ._manifest import ManifestError as ManifestError
from ._manifest import parse_indices as parse_indices
from ._manifest import read_manifest as read_manifest
from ._margin_rows import Margin as Margin
from ._margin_run import certify_margins as certify_margins
from ._plot import plot_curves as plot_curves
from ._reader import LOG_NAME as LOG_NAME
from ._reader import Log as Log
from ._reader import read_log as read_log
from ._recheck import Problem as Problem
from ._recheck import RecheckResult as RecheckResult
from ._recheck import recheck as recheck
from ._rows import LogError as LogError
from ._rows import Row as Row
from ._run import certify_run as certify_run
from ._run_log import RunLog as RunLog
from ._summary import Summary as Summary
from ._summary import certified_accuracy_curve as certified_accuracy_curve
from ._summary import default_radii as default_radii
from ._summary import format_table as format_table
from ._summary import summarize as summarize
from ._summary import summary_to_dict as summary_to_dict
