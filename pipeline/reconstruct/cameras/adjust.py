"""Bundle adjustment that discounts outliers, and keeps the cameras it is told to keep."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pipeline.extras import import_pycolmap


def adjust_robustly(
    model: Any,
    scale: float,
    threads: int,
    keep: Collection[int] = (),
    refine_focal: bool = True,
    principal: bool = False,
    least_gain: float = 0.0,
) -> float:
    """Adjust all cameras and points of a `pycolmap.Reconstruction`, in place.

    scale: residual in pixels from which the soft-L1 loss grows no faster than the residual.
    keep: numbers of cameras whose intrinsics stay exactly as they are.
    refine_focal: whether the focal lengths of the others change. Their distortion always does.
    principal: whether their principal points change.
    least_gain: share of the cost that a step has to save; the first that saves less is the last.

    Returns the cost at the end: half of the sum of the losses of all observations, in pixels².
    """
    pycolmap = import_pycolmap()
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.refine_focal_length = refine_focal
    options.refine_principal_point = principal
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.loss_function_scale = scale
    options.ceres.solver_options.num_threads = threads
    options.ceres.solver_options.function_tolerance = least_gain
    everything = pycolmap.BundleAdjustmentConfig()
    for image in model.reg_image_ids():
        everything.add_image(image)
    for camera in used_cameras(model).intersection(keep):
        everything.set_constant_cam_intrinsics(camera)
    everything.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # pycolmap.bundle_adjustment would do the same, but it turns COLMAP's log on again.
    adjuster = pycolmap.create_default_ceres_bundle_adjuster(options, everything, model)
    solved = adjuster.solve()
    cost = float(solved.ceres_summary.final_cost) if solved.num_residuals else 0.0
    model.update_point_3d_errors()
    return cost


def used_cameras(model: Any) -> set[int]:
    """Numbers of the cameras that took a registered image."""
    return {model.images[image].camera_id for image in model.reg_image_ids()}
