"""Every run of the notebooks by pytest is on the smallest scale. The Chinese lessons do not run: a
test proves that their code is that of the English ones. Their solutions do, with the checkers."""

import os

os.environ.setdefault("NAM_EDU_PROFILE", "ci")  # for the kernels

collect_ignore_glob = ["zh/0*.ipynb"]
