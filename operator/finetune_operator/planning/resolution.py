"""Resolves a FineTuneJob to the run of its attempts, or to the reason that blocks the job. Pure."""

from collections.abc import Callable

from finetune_operator.api import AttemptStatus, FineTuneJob
from finetune_operator.names import Reason
from finetune_operator.planning import model_source, notifications, store_access
from finetune_operator.planning.lookup import records_of
from finetune_operator.planning.stages import is_frozen, train_attempts
from finetune_operator.planning.types import Blocked, Observed
from finetune_operator.rendering import trainer_config
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_operator.settings import Profile, Settings, allows
from finetune_trainer import config as trainer


def resolve(job: FineTuneJob, observed: Observed, settings: Settings) -> ResolvedRun | Blocked:
    """The run of a job, or the first reason that blocks the job.

    From the first Train attempt on, the run is the run of that attempt. The cleanup record holds the run, so
    neither an upgrade of the operator nor a changed profile invalidates its results, or removes a gang that
    waits for GPUs from its queue. Until the spec is frozen, this applies only to an attempt for the current
    generation: a later generation may ask for another run.
    """
    settled = _settled_attempt(job)
    profile = _allowed_profile(job, settings)
    if isinstance(profile, Blocked):
        return _hold(profile) if settled else profile
    begun = bool(job.status and job.status.attempts)
    if not begun and (refusal := notifications.check(job, settings)):
        return refusal  # later, notifications stop no run: status.notifications tells of the target
    if settled and (recorded := _recorded_run(job, observed, settled)):
        return store_access.check_unchanged(job, settings, profile, recorded) or ResolvedRun(
            recorded, profile, settled.spec_digest
        )
    try:
        model = model_source.source_of(job, observed)
        if isinstance(model, Blocked):
            return model
        run = trainer_config.run(job, profile, model, settings)
        return ResolvedRun(
            run, profile, settled.spec_digest if settled else trainer_config.spec_digest(job, run)
        )
    except ValueError as error:
        return Blocked(Reason.SPEC_INVALID, f"The spec cannot be run: {error}")


def _allowed_profile(job: FineTuneJob, settings: Settings) -> Profile | Blocked:
    """The profile of a job, or the reason that the operator's settings do not allow the job."""
    profile = _profile(job, settings)
    if isinstance(profile, Blocked):
        return profile
    refusals = (check(job, settings, profile) for check in CHECKS)
    return next((refusal for refusal in refusals if refusal), profile)


def _hold(refusal: Blocked) -> Blocked:
    """Turns a refusal into a wait, for a job that has a Train attempt: only the settings can have changed."""
    way_out = "Training has begun, so the job waits until the operator's settings allow this again."
    return Blocked(refusal.reason, f"{refusal.message} {way_out}", passes=True)


def _profile(job: FineTuneJob, settings: Settings) -> Profile | Blocked:
    """The profile that a job names, or the reason that the namespace may not use the profile."""
    name, namespace = job.spec.resources.profile, job.metadata["namespace"]
    allowed = [n for n, p in sorted(settings.profiles.items()) if allows(p.allowed_namespaces, namespace)]
    if name in allowed:
        return settings.profiles[name]
    way_out = (
        f"Name one of these: {', '.join(allowed)}." if allowed else "Ask the admin of the operator for one."
    )
    if name in settings.profiles:
        return Blocked(
            Reason.PROFILE_FORBIDDEN,
            f"spec.resources.profile: jobs of namespace {namespace} may not use profile {name!r}. {way_out}",
        )
    return Blocked(Reason.PROFILE_UNKNOWN, f"spec.resources.profile: there is no profile {name!r}. {way_out}")


def _check_size(job: FineTuneJob, _: Settings, profile: Profile) -> Blocked | None:
    resources = job.spec.resources
    for field, value, most in (
        ("nodes", resources.nodes, profile.max_nodes),
        ("gpusPerNode", resources.gpus_per_node, profile.max_gpus_per_node),
    ):
        if value > most:
            return Blocked(
                Reason.SPEC_INVALID,
                f"spec.resources.{field}: {value}; profile {resources.profile} allows at most {most}: ask for"
                " fewer.",
            )
    return None


CHECKS: tuple[Callable[[FineTuneJob, Settings, Profile], Blocked | None], ...] = (
    store_access.check,
    _check_size,
)


def _settled_attempt(job: FineTuneJob) -> AttemptStatus | None:
    """The last Train attempt, if the attempt was certainly made for the current spec; else None."""
    attempts = train_attempts(job.status.attempts if job.status else ())
    if not attempts or not (is_frozen(job.status) or attempts[-1].generation == job.metadata["generation"]):
        return None
    return attempts[-1]


def _recorded_run(job: FineTuneJob, observed: Observed, attempt: AttemptStatus) -> trainer.Run | None:
    """The run that an attempt was made for; None where no cleanup record holds the run."""
    records = records_of(job, observed)
    return next((r.run for r in records if r.run.digest() == attempt.config_digest), None)
