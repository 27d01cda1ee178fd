"""The story, from a job to a bundle. Read this first.

Job -> Workload -> Candidate ... -> Program ... -> Measurement ... -> Front -> Bundle
"""

from __future__ import annotations

import shlex
from pathlib import Path

from .core.job import Job
from .core.machine import this_machine, usable_cores
from .core.registry import find
from .core.seams import Check, Profile, Target
from .core.store import Store
from .core.trial import Fate, Trial
from .measure.worker import State, Worker
from .search.bundling import Writer
from .search.certify import Finisher, provisional
from .search.explore import Explorer, right_runtime
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
    study = Study(job.search.budget, observer or Observer())
    study.observer.budget(job.search.budget)
    target = make_target(job)
    check_request(job, target, out)
    energy = energy_source(job, target)
    with study.spending("open"):
        study.stage("open", "read the data, divide it, load the model")
        workload = open_workload(job, store)
    metric = choose_metric(job, workload)
    profile = ask(job, target, study)
    space = make_space(job, target, profile)
    shop = Workshop(store, study, workload, target, job.search.seed, energy=energy)
    start = Trial(candidate=workload.original, runtime=right_runtime(workload.original.floor), fate=Fate.START)
    with Judge(shop, start, metric, job.limits.max_drop) as judge:
        judge.check()
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
    store = store or Store.default()
    study = Study(job.search.budget, observer or Observer())
    target = make_target(job)
    check_request(job, target, None)
    energy_source(job, target)
    workload = open_workload(job, store)
    choose_metric(job, workload)  # a wrong one is an error of the plan already
    profile = ask(job, target, study)
    space = make_space(job, target, profile)
    shop = Workshop(store, study, workload, target, job.search.seed)
    return list(Explorer.planned(shop, study, profile, space).lines)


def make_target(job: Job) -> Target:
    """This machine, used as the job says."""
    return Target(threads=min(job.target.threads or usable_cores(), usable_cores()), batch_size=job.target.batch_size)


def ask(job: Job, target: Target, study: Study) -> Profile:
    """What the machine answers when it is asked, in a child process."""
    with study.spending("doctor"), Worker("doctor", threads=target.threads) as worker:
        findings = worker.call(_ask, target)
    for sentence, _ in findings:
        study.observer.learnt(sentence)
    facts = frozenset(fact for _, facts in findings for fact in facts)
    return Profile(machine=this_machine(), target=target, facts=facts, objective=job.search.objective)


def _ask(state: State, target: Target) -> list[tuple[str, frozenset[str]]]:
    findings = [kind().ask(target) for kind in find(Check).values()]
    return [(finding.sentence, finding.facts) for finding in findings]


def _command(job: Job) -> str:
    return f"hasten optimize {shlex.quote(str(job.model.source or 'MODEL'))}"
