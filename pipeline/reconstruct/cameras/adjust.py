"""Bundle adjustment that discounts outliers, and keeps the cameras it is told to keep."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap

# Images up to which the equations are solved directly. COLMAP's own limit is 1,000. Of a survey of
# 1,024 images a direct step took 0.7 s; iterative steps took five times as long to the same error.
MOST_DIRECT = 20_000
LEAST_PLACES = 3  # that a model is brought to
MOST_CONDITION = 1e12  # of a covariance that is inverted

# Where an image was taken: x, y and z, and the error of each, 1 sigma.
PriorPlace = tuple[float, float, float, float, float, float]


def adjust_robustly(
    model: Any,
    scale: float,
    threads: int,
    keep: Collection[int] = (),
    refine_focal: bool = True,
    principal: bool = False,
    least_gain: float = 0.0,
    still: Collection[int] = (),
    places: Mapping[str, PriorPlace] | None = None,
) -> float:
    """Adjust all cameras and points of a `pycolmap.Reconstruction`, in place.

    scale: residual in pixels from which the soft-L1 loss grows no faster than the residual.
    keep: numbers of cameras whose intrinsics stay exactly as they are.
    refine_focal: whether the focal lengths of the others change. Their distortion always does.
    principal: whether their principal points change.
    least_gain: share of the cost that a step has to save; the first that saves less is the last.
    still: numbers of images whose poses stay exactly as they are.
    places: where images were taken, by their names. The model is brought to them, and cameras are
        drawn towards them. Fewer than LEAST_PLACES do not count.

    Returns the cost at the end: half of the sum of the losses of all observations, in pixels².
    """
    how = refine_focal, principal, least_gain, still, places
    adjuster = _adjuster(model, scale, threads, keep, *how)
    solved = adjuster.solve()
    cost = float(solved.ceres_summary.final_cost) if solved.num_residuals else 0.0
    model.update_point_3d_errors()
    return cost


def camera_information(
    model: Any, scale: float, threads: int, keep: Collection[int], least_gain: float
) -> dict[int, tuple[list[int], np.ndarray]]:
    """Adjust a model in place, and tell how well it determines the cameras that change.

    model: a `pycolmap.Reconstruction` whose images are all registered.

    Returns of each camera which of its parameters change, n of them, and the inverse of their
    covariance, (n, n). Cameras that the model does not determine are left out. Other arguments
    are those of `adjust_robustly`.
    """
    pycolmap = import_pycolmap()
    adjuster = _adjuster(model, scale, threads, keep, True, False, least_gain, (), None)
    adjuster.solve()
    found = pycolmap.estimate_ba_covariance(pycolmap.BACovarianceOptions(), model, adjuster)
    told = {}
    for number in sorted(used_cameras(model).difference(keep)):
        camera = model.cameras[number]
        covariance = None if found is None else found.get_other_params_cov(camera.params)
        if covariance is not None and np.linalg.cond(covariance) < MOST_CONDITION:
            free = sorted([*camera.focal_length_idxs(), *camera.extra_params_idxs()])
            told[number] = free, np.linalg.inv(covariance)
    return told


def _adjuster(
    model: Any,
    scale: float,
    threads: int,
    keep: Collection[int],
    refine_focal: bool,
    principal: bool,
    least_gain: float,
    still: Collection[int],
    places: Mapping[str, PriorPlace] | None,
) -> Any:
    """COLMAP's bundle adjuster; see `adjust_robustly`."""
    pycolmap = import_pycolmap()
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.refine_focal_length = refine_focal
    options.refine_principal_point = principal
    options.refine_sensor_from_rig = False  # the faces of a panorama are known
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.loss_function_scale = scale
    options.ceres.max_num_images_direct_sparse_cpu_solver = MOST_DIRECT
    options.ceres.solver_options.num_threads = threads
    options.ceres.solver_options.function_tolerance = least_gain
    everything = pycolmap.BundleAdjustmentConfig()
    for image in model.reg_image_ids():
        everything.add_image(image)
    for camera in used_cameras(model).intersection(keep):
        everything.set_constant_cam_intrinsics(camera)
    for image in still:
        everything.set_constant_rig_from_world_pose(model.images[image].frame_id)
    priors = pose_priors(model, places or {})
    if len(priors) >= LEAST_PLACES:
        how = pycolmap.PosePriorBundleAdjustmentOptions()
        how.alignment_ransac.random_seed = 0
        how.ceres.prior_position_loss_function_type = pycolmap.LossFunctionType.CAUCHY
        return pycolmap.create_pose_prior_ceres_bundle_adjuster(
            options, how, everything, priors, model
        )
    everything.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # pycolmap.bundle_adjustment would do the same, but it turns COLMAP's log on again.
    return pycolmap.create_default_ceres_bundle_adjuster(options, everything, model)


def pose_priors(model: Any, places: Mapping[str, PriorPlace]) -> list[Any]:
    """`pycolmap.PosePrior`s of the registered images of a model whose places are known."""
    images = (model.images[number] for number in sorted(model.reg_image_ids()))
    return [pose_prior(image, places[image.name]) for image in images if image.name in places]


def pose_prior(image: Any, place: PriorPlace) -> Any:
    """The `pycolmap.PosePrior` of an image."""
    pycolmap = import_pycolmap()
    return pycolmap.PosePrior(
        pose_prior_id=image.image_id,
        corr_data_id=image.data_id,
        position=np.array(place[:3]),
        position_covariance=np.diag(np.square(place[3:])),
        coordinate_system=pycolmap.PosePriorCoordinateSystem.CARTESIAN,
    )


def check_threads(threads: int) -> None:
    """Raise ReconstructionError for a number of threads that COLMAP cannot work with."""
    if threads < 1 and threads != -1:
        raise ReconstructionError(
            f"{threads} threads: give a number above zero, or -1 for all cores."
        )


def used_cameras(model: Any) -> set[int]:
    """Numbers of the cameras that took a registered image."""
    return {model.images[image].camera_id for image in model.reg_image_ids()}
