"""What a ``last.pth`` holds of a learner, checked before a run continues from it.

``load_state_dict`` of an optimiser takes tensors of any shape, and that of a schedule sets any
attribute: of both only what the recipe does not decide is taken.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor
from torch.optim import Adam

from dabnet.errors import InputError
from dabnet.training.learner import Learner
from dabnet.weights import check_tensors


def restore(
    learner: Learner, kept_weights: Any, state: dict[str, Any], iteration: int, file: Path
) -> None:
    """Let ``learner`` continue from what its ``kept_weights`` and ``state`` returned.

    Args:
        learner: a new one of the same run.
        kept_weights, state: as ``file`` holds them.
        iteration: steps done.
        file: for errors.

    Raises:
        DabnetError: something is missing, of another type, shape or range, or not finite, or does
            not belong to this iteration.
    """
    own = learner.state()
    _check_weights(kept_weights, learner.kept_weights(), "the weights", file)
    if missing := sorted(own.keys() - state.keys()):
        _refuse(file, f"it lacks {missing[0]!r}")
    updates = iteration if learner.average else 0
    if type(state["averaged"]) is not int or state["averaged"] != updates:
        _refuse(file, f"averaged is {_shown(state['averaged'])}, not {updates}")
    if learner.average:
        _check_weights(state["network"], own["network"], "network", file)
    heads = {name: state[name] for name in own if name == "heads"}
    for name in heads:
        _check_weights(heads[name], own[name], name, file)
    schedule = state["schedule"] if isinstance(state["schedule"], dict) else {}
    done = schedule.get("last_epoch")
    if type(done) is not int or done != iteration:
        _refuse(file, f"its schedule is at {_shown(done)}, not at iteration {iteration}")
    moments = _moments(learner, state["optimiser"], file)
    if iteration and not moments and not learner.scaler.is_enabled():
        _refuse(file, f"its optimiser has no state after {iteration} iterations")
    rates = [
        base * factor(iteration)
        for base, factor in zip(learner.schedule.base_lrs, learner.schedule.lr_lambdas, strict=True)
    ]
    groups = own["optimiser"]["param_groups"]
    groups = [group | {"lr": rate} for group, rate in zip(groups, rates, strict=True)]
    place = {"last_epoch": iteration, "_step_count": iteration + 1, "_last_lr": rates}
    learner.restore(
        kept_weights,
        {
            "optimiser": {"state": moments, "param_groups": groups},
            "schedule": own["schedule"] | place,
            "scaler": own["scaler"] | _scale(learner, state["scaler"], file),
            "network": state["network"],
            "averaged": updates,
            **heads,
        },
    )


def _check_weights(state: Any, own: dict[str, Tensor], what: str, file: Path) -> None:
    if not isinstance(state, dict) or state.keys() != own.keys():
        _refuse(file, f"{what}: other tensors than those of the network")
    check_tensors(state, own, file)
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            _refuse(file, f"{what}: {name} is {list(state[name].shape)}, not {list(tensor.shape)}")


def _moments(learner: Learner, saved: Any, file: Path) -> dict[int, dict[str, Any]]:
    """The state of the optimiser by the number of a weight: its tensors have the weight's shape."""
    weights = [weight for group in learner.optimiser.param_groups for weight in group["params"]]
    state = saved.get("state") if isinstance(saved, dict) else None
    if not isinstance(state, dict):
        _refuse(file, "it lacks the state of the optimiser")
    adam = isinstance(learner.optimiser, Adam)
    names = {"step", "exp_avg", "exp_avg_sq"} if adam else {"momentum_buffer"}
    for number, moments in state.items():
        if type(number) is not int or not 0 <= number < len(weights):
            _refuse(file, f"its optimiser knows {len(weights)} weights, not {_shown(number)}")
        if not isinstance(moments, dict) or moments.keys() != names:
            _refuse(file, f"its optimiser keeps other values than {', '.join(sorted(names))}")
        for name, tensor in moments.items():
            if tensor is None and not learner.recipe.momentum and not adam:
                continue
            shape = () if name == "step" else weights[number].shape
            fits = isinstance(tensor, Tensor) and tensor.is_floating_point()
            if not fits or tensor.shape != shape or not bool(tensor.isfinite().all()):
                _refuse(file, f"{name} of weight {number} is no finite tensor of {list(shape)}")
            if name in ("step", "exp_avg_sq") and bool((tensor < 0).any()):
                _refuse(file, f"{name} of weight {number} is below 0")
    return state


def _scale(learner: Learner, saved: Any, file: Path) -> dict[str, Any]:
    """The factor of the loss, of a run in fp16; {} of any other."""
    if not isinstance(saved, dict):
        _refuse(file, "its scaler is no dictionary")
    if not learner.scaler.is_enabled():
        return {}
    scale, good = saved.get("scale"), saved.get("_growth_tracker")
    if type(scale) is not float or not 0 < scale < math.inf or type(good) is not int or good < 0:
        _refuse(file, f"its scaler is at {_shown(scale)} after {_shown(good)} good steps")
    return {"scale": scale, "_growth_tracker": good}


def _shown(value: Any) -> str:
    return f"{value!r}"[:40] if isinstance(value, (int, float, str)) else type(value).__name__


def _refuse(file: Path, fault: str) -> NoReturn:
    raise InputError(
        f"--resume {file}: {fault}",
        "the last.pth of a run, as it was written",
        "continue from its previous.pth, or start a new run in another --output",
    )
