"""Resolves a FineTuneJob to the run that attempts are made from, or says what blocks it. Pure."""

from collections.abc import Callable

from finetune_operator.api import AttemptStatus, FineTuneJob
from finetune_operator.names import Reason
from finetune_operator.planning import model_source, store_access
from finetune_operator.planning.lookup import jobs_of
from finetune_operator.planning.stages import trained
from finetune_operator.planning.types import Blocked, Observed
from finetune_operator.rendering import trainer_config
from finetune_operator.rendering.jobs import config_of
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_operator.settings import Profile, Settings, allows
from finetune_trainer import config as trainer
from finetune_trainer.contract import Stage


def resolve(job: FineTuneJob, observed: Observed, settings: Settings) -> ResolvedRun | Blocked:
    """What attempts are made from, or the first thing that is missing.

    Once training has begun the run is what training began with: the cleanup Job remembers it, so that neither
    an upgrade of the operator nor a changed profile makes a run's results worthless halfway.
    """
    begun = trained(job.status.attempts if job.status else ())
    profile = _allowed_profile(job, settings)
    if isinstance(profile, Blocked):
        return _held(profile) if begun else profile
    if begun and (remembered := _remembered(job, observed, begun[-1])):
        return store_access.check_unchanged(job, settings, profile, remembered) or ResolvedRun(
            remembered, profile, begun[-1].spec_digest
        )
    try:
        model = model_source.source_of(job, observed)
        if isinstance(model, Blocked):
            return model
        run = trainer_config.run(job, profile, model, settings)
        return ResolvedRun(
            run, profile, begun[-1].spec_digest if begun else trainer_config.spec_digest(job, run)
        )
    except ValueError as error:
        return Blocked(Reason.SPEC_INVALID, f"The spec cannot be run: {error}")


def _allowed_profile(job: FineTuneJob, settings: Settings) -> Profile | Blocked:
    """The profile of a job; or why the operator's settings do not allow the job."""
    profile = _profile(job, settings)
    if isinstance(profile, Blocked):
        return profile
    refusals = (check(job, settings, profile) for check in CHECKS)
    return next((refusal for refusal in refusals if refusal), profile)


def _held(refusal: Blocked) -> Blocked:
    """A refusal of a job whose spec is settled: only the settings can have changed."""
    way_out = "Training has begun, so the job waits until the operator's settings allow this again."
    return Blocked(refusal.reason, f"{refusal.message} {way_out}", passes=True)


def _profile(job: FineTuneJob, settings: Settings) -> Profile | Blocked:
    """The profile that a job names, if jobs of the namespace may use the profile."""
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


def _fits_profile(job: FineTuneJob, _: Settings, profile: Profile) -> Blocked | None:
    asked = job.spec.resources
    for field, value, most in (
        ("nodes", asked.nodes, profile.max_nodes),
        ("gpusPerNode", asked.gpus_per_node, profile.max_gpus_per_node),
    ):
        if value > most:
            return Blocked(
                Reason.SPEC_INVALID,
                f"spec.resources.{field}: {value}; profile {asked.profile} allows at most {most}: ask for"
                " fewer.",
            )
    return None


CHECKS: tuple[Callable[[FineTuneJob, Settings, Profile], Blocked | None], ...] = (
    store_access.check,
    _fits_profile,
)


def _remembered(job: FineTuneJob, observed: Observed, begun: AttemptStatus) -> trainer.Run | None:
    """The run that an attempt was made for; None where no cleanup Job remembers it."""
    configs = [config_of(cleanup) for cleanup in jobs_of(job, observed, Stage.CLEANUP)]
    return next((c.run for c in configs if c and c.run.digest() == begun.config_digest), None)
