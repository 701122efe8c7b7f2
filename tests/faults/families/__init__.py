"""One module per kind of input; each has ``cases()``."""

from tests.faults.families import (
    artifact_cache,
    calibrations,
    checkpoints,
    data_sets,
    engines,
    images,
    number_caches,
    onnx_files,
    options,
    outputs,
    public_checkpoints,
    records,
    report_texts,
    runs,
)

FAMILIES = (
    artifact_cache,
    calibrations,
    checkpoints,
    data_sets,
    engines,
    images,
    number_caches,
    onnx_files,
    options,
    outputs,
    public_checkpoints,
    records,
    report_texts,
    runs,
)
