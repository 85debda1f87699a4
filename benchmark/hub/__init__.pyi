from .datasets import load_hub_dataset as load_hub_dataset
from .files import fetch_settings as fetch_settings
from .files import fetch_weights as fetch_weights
from .files import is_missing_file as is_missing_file
from .revisions import resolve_hub_revision as resolve_hub_revision
from .settings import access_token as access_token
from .sizes import data_size as data_size
from .sizes import weights_size as weights_size
