"""How likely a model finds images, on one scale for all families: nats and bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genkit.compute.seeds import derive_seed, seed_generators
from genkit.errors import PluginError
from genkit.evaluation.levels import round_to_levels
from genkit.model import GenerativeModel, LogLikelihood, to_unit_range
from genkit.report.rows import Likelihood
from genkit.sampling.draw import evaluating

MOST_IMAGES = 100  # at a time
MOST_DECODED = 2000  # images times draws at a time

Progress = Callable[[int, int], None]


@torch.no_grad()
def measure_likelihood(
    model: GenerativeModel,
    images: Tensor,
    *,
    draws: int = 64,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Likelihood | None:
    """Mean log-likelihood of images, uint8, (N, C, H, W), or None for a model without one.

    Of a model with `log_weights` it is the importance-weighted bound (Burda et al. 2016, arXiv
    1509.00519, equation 8): the mean over images of ln(1/k sum_i p(x, z_i) / q(z_i | x)), with
    k = `draws`, at least 1. It is never below the ELBO, the mean of the same log-weights, and
    comes closer to ln p(x) the more draws there are. Of other models it is `log_likelihood`.

    All random numbers follow from `seed`; torch's own are left as they were. The deviation is the
    standard error of the mean over the images, None for a single image; `draws` and `elbo` are
    there with log-weights only.

    Raises:
        PluginError: the model answers with wrong shapes or with values that are not finite.
    """
    at_once = max(1, min(MOST_IMAGES, MOST_DECODED // draws))
    devices = [model.device] if model.device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices=devices):
        seed_generators(model.device, derive_seed(seed, "likelihood"))
        weighed = _ask(model, "log_weights", images, at_once, on_progress, draws)
        found = weighed or _ask(model, "log_likelihood", images, MOST_IMAGES, on_progress)
    if not found:
        return None
    weights = torch.cat([answer.nats.cpu().double() for answer in found], -1)  # (..., N)
    nats = weights.logsumexp(0) - math.log(draws) if weighed else weights  # (N,)
    mean, count = nats.mean().item(), len(nats)
    likelihood = Likelihood(
        nats=mean,
        deviation=nats.std().item() / math.sqrt(count) if count > 1 else None,
        bits_per_dimension=-mean / math.log(2) / images[0].numel(),
        kind=found[0].kind,
        of="; ".join(dict.fromkeys(answer.of for answer in found)),
        images=count,
    )
    if weighed:
        return likelihood.model_copy(update={"draws": draws, "elbo": weights.mean().item()})
    return likelihood


def measure_versions(
    model: GenerativeModel,
    images: Tensor,
    samples: Tensor,
    *,
    draws: int = 64,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> tuple[Likelihood, ...]:
    """Log-likelihood of each version of images that a model can judge, the finest first, and
    beside it that of its own samples; empty for a model without a likelihood.

    Args:
        images: test images, uint8, (N, C, H, W).
        samples: of the model, uint8, (n, C, H, W).
    """
    found: list[Likelihood] = []
    for levels in sorted(check_levels(model), reverse=True):
        if found and torch.equal(round_to_levels(images, levels), images):
            continue  # they are as coarse as this already
        test, own = (
            measure_likelihood(
                model,
                round_to_levels(each, levels),
                draws=draws,
                seed=seed,
                on_progress=on_progress,
            )
            for each in (images, samples)
        )
        if test is None or own is None:
            return ()
        more = {"levels": levels, "own": own.nats, "own_deviation": own.deviation}
        found.append(test.model_copy(update=more))
    return tuple(found)


def check_levels(model: GenerativeModel) -> set[int]:
    """Of which versions of the test images a model gives the likelihood; PluginError if these are
    not numbers of levels."""
    levels = model.likelihood_levels()
    if not levels or not all(isinstance(each, int) and 2 <= each <= 256 for each in levels):
        raise PluginError(
            f"{type(model).__name__}.likelihood_levels() must return whole numbers from 2 to 256, "
            f"got {levels!r:.60}"
        )
    return set(levels)


def _ask(
    model: GenerativeModel,
    method: str,
    images: Tensor,
    at_once: int,
    on_progress: Progress | None,
    *arguments: int,
) -> list[LogLikelihood] | None:
    """What a model's method answers to images, uint8, (N, C, H, W), `at_once` at a time; None if
    it has no answer."""
    answers: list[LogLikelihood] = []
    for start in range(0, len(images), at_once):
        batch = images[start : start + at_once]
        answer = getattr(model, method)(to_unit_range(batch.to(model.device)), *arguments)
        if answer is None:
            return None
        _check(answer, (*arguments, len(batch)), f"{type(model).__name__}.{method}()")
        answers.append(answer)
        if on_progress:
            on_progress(start + len(batch), len(images))
    return answers


def _check(answer: object, shape: tuple[int, ...], method: str) -> None:
    """Raise PluginError unless an answer is of a known kind and holds finite numbers of that
    shape."""
    nats, got = getattr(answer, "nats", None), f"a {type(answer).__name__}"
    kind = getattr(answer, "kind", None)
    if isinstance(nats, Tensor) and kind not in ("exact", "bound"):
        raise PluginError(f'{method} must say kind="exact" or "bound", not {kind!r:.60}')
    if isinstance(nats, Tensor):
        finite = int(nats.isfinite().sum())
        if nats.shape == shape and finite == nats.numel():
            return
        got = f"{tuple(nats.shape)}, {finite} of them finite"
    raise PluginError(f"{method} must return a LogLikelihood of finite nats {shape}, got {got}")
