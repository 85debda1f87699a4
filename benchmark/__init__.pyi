from .execution import execute as execute
from .plan import RunSpec as RunSpec
from .plan import plan as plan
from .records import Record as Record
from .records import average_seeds as average_seeds
from .records import load_results as load_results
from .registry import Registry as Registry
