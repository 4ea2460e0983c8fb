"""Every run of the notebooks by pytest is on the smallest scale."""

import os

os.environ.setdefault("NAM_EDU_PROFILE", "ci")  # for the kernels
