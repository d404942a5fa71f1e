"""Resolves a FineTuneJob to the run that attempts are made from, or says what blocks it. Pure."""

from collections.abc import Callable

from finetune_operator.api import AttemptStatus, FineTuneJob
from finetune_operator.names import Reason
from finetune_operator.planning import model_source
from finetune_operator.planning.lookup import records_of
from finetune_operator.planning.stages import is_frozen, train_attempts
from finetune_operator.planning.types import Blocked, Observed
from finetune_operator.rendering import trainer_config
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_operator.settings import Profile, Settings
from finetune_trainer import config as trainer

ROLES: tuple[trainer.StoreRole, ...] = ("data", "model", "output")


def resolve(job: FineTuneJob, observed: Observed, settings: Settings) -> ResolvedRun | Blocked:
    """What attempts are made from, or the first thing that is missing.

    From the first Train attempt on, the run is the one that this attempt was made for. The cleanup record
    holds that run, so neither an upgrade of the operator nor a changed profile invalidates its results, or
    takes a gang that waits for GPUs out of the queue. Until the spec is frozen this holds only for an attempt
    that was made for the present generation: a later generation may ask for another run.
    """
    profile = settings.profiles.get(job.spec.resources.profile)
    if profile is None:
        known = ", ".join(sorted(settings.profiles))
        return Blocked(
            Reason.PROFILE_UNKNOWN,
            f"spec.resources.profile: there is no profile {job.spec.resources.profile!r}. Name one of these:"
            f" {known}.",
        )
    for named in CHECKS:
        if unmet := named(job, settings, profile):
            return unmet
    settled = _settled(job)
    if settled and (remembered := _remembered(job, observed, settled)):
        return ResolvedRun(remembered, profile, settled.spec_digest)
    try:
        model = model_source.source_of(job, observed)
        if isinstance(model, Blocked):
            return model
        run = trainer_config.run(job, profile, model)
        return ResolvedRun(
            run, profile, settled.spec_digest if settled else trainer_config.spec_digest(job, run)
        )
    except ValueError as error:
        return Blocked(Reason.SPEC_INVALID, f"The spec cannot be run: {error}")


def _storage_is_set(job: FineTuneJob, _: Settings, profile: Profile) -> Blocked | None:
    missing = [role for role in ROLES if trainer_config.storage_of(job, role, profile) is None]
    if not missing:
        return None
    return Blocked(
        Reason.STORAGE_UNSET,
        f"No store is set for {' and '.join(missing)}: set spec.storage (endpoint, secretRef), or ask for a"
        f" default store in the operator's profile {job.spec.resources.profile}.",
    )


def _storage_is_secure(job: FineTuneJob, settings: Settings, profile: Profile) -> Blocked | None:
    if not settings.require_tls:
        return None
    stores = {role: trainer_config.storage_of(job, role, profile) for role in ROLES}
    for role, store in stores.items():
        if store and not store.endpoint.startswith("https://"):
            return Blocked(
                Reason.STORAGE_INSECURE,
                f"The endpoint of the {role} store is {store.endpoint}: plain http is refused here. Use"
                " https, or set requireTls: false in the operator's settings.",
            )
    return None


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
    _storage_is_set,
    _storage_is_secure,
    _fits_profile,
)


def _settled(job: FineTuneJob) -> AttemptStatus | None:
    """The Train attempt that was made for the spec as it stands; None where there is none for sure."""
    attempts = train_attempts(job.status.attempts if job.status else ())
    if not attempts or not (is_frozen(job.status) or attempts[-1].generation == job.metadata["generation"]):
        return None
    return attempts[-1]


def _remembered(job: FineTuneJob, observed: Observed, attempt: AttemptStatus) -> trainer.Run | None:
    """The run that an attempt was made for; None where no cleanup record holds it."""
    records = records_of(job, observed)
    return next((r.run for r in records if r.run.digest() == attempt.config_digest), None)
