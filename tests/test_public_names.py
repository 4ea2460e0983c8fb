"""Every public name is importable from where the course says it is; from a wheel, too."""

import importlib

import pytest

NAMES = {
    "nam_edu": "setup",
    "nam_edu.attention": "gamma_weights ChannelNAM SpatialNAM NAM sparsity_penalty",
    "nam_edu.baselines": "ATTENTIONS build_attention SE CBAM ECA SimAM ConstantGate",
    "nam_edu.resnet": "resnet18 resnet34 resnet50 resnet101 resnet152",
    "nam_edu.data": "read_archive write_archive locate_cifar100 download_cifar100 ArchiveError",
    "nam_edu.checkpoint": "load_weights save_weights CheckpointError",
    "nam_edu.training": "Recipe recipe fit open_run shipped load_data Run TrainingError Stopped",
    "nam_edu.recipes": "Recipe recipe RECIPES",
    "nam_edu.runs": "Run open_run shipped",
    "nam_edu.evaluation": "evaluate Evaluation predict gates fixed_gates without_channels",
    "nam_edu.exercises": "check",
    "nam_edu.lessons": "lesson_data lesson_run",
    "nam_edu.plots": "gamma_explorer",
    "nam_edu.backend": "profile",
    "nam_edu.__main__": "main",
}


@pytest.mark.parametrize(
    "module, name", [(m, n) for m, names in NAMES.items() for n in names.split()]
)
def test_is_importable(module, name):
    assert hasattr(importlib.import_module(module), name)
