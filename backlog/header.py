from worker.header import *  # noqa
from worker.header import Identity, identity, read_header, facts  # noqa
