"""Where nginx is: on Debian beside what only root has on its path."""

import os
import shutil
from typing import Final

NGINX: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
"""The program's path, or None."""
