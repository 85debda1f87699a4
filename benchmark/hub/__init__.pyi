from .datasets import load_hub_dataset as load_hub_dataset
from .files import fetch_checkpoint as fetch_checkpoint
from .files import fetch_settings as fetch_settings
from .files import is_missing_file as is_missing_file
from .revisions import resolve_hub_revision as resolve_hub_revision
from .settings import access_token as access_token
from .weights import CheckpointFiles as CheckpointFiles
from .weights import local_checkpoint as local_checkpoint
