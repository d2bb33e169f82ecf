"""What a run leaves behind for people: records, pages, tables, live display."""

import os

from toplora_train.config.folders import cache_folder

# Else matplotlib, when it is imported, makes a folder in the user's home.
os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
