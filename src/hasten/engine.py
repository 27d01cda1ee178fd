"""The story, from a job to a bundle. Read this first.

Job -> Workload -> Candidate ... -> Program ... -> Measurement ... -> Front -> Bundle
"""

from __future__ import annotations

import shlex
from pathlib import Path

from .core.job import Job
from .core.machine import Machine, this_machine
from .core.seams import Profile, Target
from .core.store import Store
from .core.trial import Fate, Trial
from .core.workload import Workload
from .measure import errands
from .search.building import right_runtime
from .search.bundling import Writer
from .search.certify import Finisher, cannot_be_proved, provisional
from .search.crew import Crew, Local
from .search.explore import Explorer
from .search.front import Front
from .search.judge import Judge
from .search.observer import Observer
from .search.opening import check_request, choose_metric, energy_source, open_workload
from .search.space import PlanLine as PlanLine
from .search.space import make_space
from .search.study import Study
from .search.workshop import Workshop


def run(job: Job, *, out: Path | None = None, store: Store | None = None, observer: Observer | None = None, command: str = "") -> Front:
    """Make the job's model as fast as its limits allow, and prove it. The bundle is in `out`, or in the store.

    Raises HastenError. Ctrl-C ends the search and finishes with what is known; a second one raises KeyboardInterrupt.
    """
    store = store or Store.default()
    study = Study(job.search.budget, observer or Observer(), job.train.budget)
    study.observer.budget(job.search.budget + job.train.budget)
    _check(job, out)
    with study.spending("open"):
        study.stage("open", "read the data, divide it, load the model")
        workload = open_workload(job, store)
    metric = choose_metric(job, workload)
    with study.spending("workers"):
        crew = hire(job, store, study.observer)
    with crew:
        target = make_target(job, crew.machine)
        energy = energy_source(job, target, crew)
        profile = ask(job, workload, target, study, crew)
        space = make_space(job, target, profile)
        shop = Workshop(store, study, workload, target, job.search.seed, crew, energy=energy, train=job.train)
        start = Trial(candidate=workload.original, runtime=right_runtime(workload.original.floor), fate=Fate.START)
        with Judge(shop, start, metric, job.limits.max_drop) as judge:
            judge.check()
            if sentence := cannot_be_proved(metric, judge.num_samples("certify"), job.limits.max_drop):
                study.observer.warn(sentence)
            place = out or store.root / "bundles" / f"{workload.name}-{job.digest()[:8]}"
            writer = Writer(job=job, study=study, shop=shop, judge=judge, place=place, command=command or _command(job))
            explorer = Explorer(shop, study, judge, profile, space, start)
            explorer.lossless()
            writer.write_so_far(provisional(explorer.explored()))  # the best so far is always on disk
            search(explorer, study)
            finisher = Finisher(shop, study, judge, limits=job.limits, search=job.search, batch_size=explorer.timed_batch)
            finish = finisher.complete(finisher.finish(explorer.explored()))
            study.stage("bundle", "everything that ships, in one folder")
            return writer.write(finish)


def search(explorer: Explorer, study: Study) -> None:
    """What changes outputs, until the budget or Ctrl-C ends it."""
    try:
        explorer.lossy(explorer.reserve_seconds())
    except KeyboardInterrupt:
        study.observer.warn("interrupted: finishing with what is known (interrupt again to stop at once; finished work is kept)")
        study.decide("stop", "interrupted by the user")


def plan(job: Job, *, store: Store | None = None, observer: Observer | None = None) -> list[PlanLine]:
    """Each technique and runtime for this job on this machine: `ok`, or one sentence why not. Nothing is tried."""
    study, store = Study(job.search.budget, observer or Observer()), store or Store.default()
    _check(job, None)
    workload = open_workload(job, store)
    choose_metric(job, workload)  # a wrong one is an error of the plan already
    with hire(job, store, study.observer) as crew:
        target = make_target(job, crew.machine)
        energy_source(job, target, crew)
        profile = ask(job, workload, target, study, crew)
        space = make_space(job, target, profile)
        shop = Workshop(store, study, workload, target, job.search.seed, crew)
        return list(Explorer.planned(shop, study, profile, space).lines)


def _check(job: Job, out: Path | None) -> None:
    """What can be refused before anything is read or started. Raises HastenError."""
    target = make_target(job, this_machine())
    check_request(job, target, out)
    if job.search.workers is None:
        energy_source(job, target)


def hire(job: Job, store: Store, observer: Observer) -> Crew:
    """Who does the work: this process's own children, or a cluster. Raises MissingExtra, NotPossibleHere."""
    if job.search.workers is None:
        return Local(store, tell=lambda fraction: observer.trying("timing", "", fraction))
    from .search.crew_ray import RayCrew

    return RayCrew(job.search.workers, job.target.label, store, observer)


def make_target(job: Job, machine: Machine) -> Target:
    """The machine that times, used as the job says."""
    return Target(threads=min(job.target.threads or machine.cores, machine.cores), batch_size=job.target.batch_size)


def ask(job: Job, workload: Workload, target: Target, study: Study, crew: Crew) -> Profile:
    """What the machine that times answers when it is asked, and what there is to train on."""
    with study.spending("doctor"):
        findings = crew.on_target(errands.ask, target)
    for sentence, _ in findings:
        study.observer.learnt(sentence)
    facts = frozenset(fact for _, facts in findings for fact in facts)
    train = workload.splits.train if job.train.budget else None
    return Profile(
        machine=crew.machine, target=target, facts=facts, objective=job.search.objective, num_train=len(train) if train is not None else 0,
        train_seconds=job.train.budget,
    )  # fmt: skip


def _command(job: Job) -> str:
    return f"hasten optimize {shlex.quote(str(job.model.source or 'MODEL'))}"
