"""Who is served next and who is refused: laws that must hold on a simulated clock, with programs whose times are known."""

from __future__ import annotations

import contextlib
import itertools
import math
import random

import pytest
from serve_simulation import Fifo, Outcome, poisson, simulate

from hasten.core.errors import Overloaded, QueueFull
from hasten.serve.curve import Curve
from hasten.serve.schedule import Priority, Schedule, Ticket, Turn

OBJECTIVE = 0.0505  # between two sizes, so that rounding does not decide which is the best batch


def cost(size: int) -> float:
    """A small network: 4 ms a call and 0.5 ms a sample."""
    return 0.004 + 0.0005 * size


def curve() -> Curve:
    return Curve({2**k: cost(2**k) for k in range(7)})


def schedule(*, objective: float = OBJECTIVE, max_queue: int = 1024) -> Schedule:
    return Schedule(curve(), objective=objective, max_queue=max_queue)


SUSTAINABLE = (best := curve().best_batch(OBJECTIVE)) / cost(best)
"""Requests a second that the worker can answer for ever."""


def overload(times: float, *, seed: int = 0) -> list[tuple[float, Ticket]]:
    return poisson(times * SUSTAINABLE, seconds=5.0, objective=OBJECTIVE, seed=seed)


@pytest.mark.parametrize("load", [0.3, 0.95, 1.3, 2.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_answered_late_at_any_load(load: float, seed: int) -> None:
    arrivals = overload(load, seed=seed)
    outcome = simulate(schedule(), arrivals, cost)
    assert outcome.late == []
    assert len(outcome.answered) + len(outcome.at_once) + len(outcome.later) == len(arrivals)


@pytest.mark.parametrize("load", [1.3, 2.0, 5.0])
def test_whoever_is_refused_hears_it_on_arrival(load: float) -> None:
    """With one objective for all and times that keep to the curve, a forecast on arrival is never wrong."""
    outcome = simulate(schedule(), overload(load), cost)
    assert outcome.at_once
    assert not outcome.later


@pytest.mark.parametrize("pause", [0.5e-3, 2e-3])
@pytest.mark.parametrize("load", [1.3, 2.0])
def test_a_worker_that_is_away_between_calls_makes_few_wait_for_nothing(load: float, pause: float) -> None:
    """What passes between two calls is learnt: else each call in line makes the forecast more hopeful than the truth."""
    rate = load / (cost(1) + pause)
    arrivals = poisson(rate, seconds=5.0, objective=OBJECTIVE)
    line = Schedule(Curve({1: cost(1)}), objective=OBJECTIVE)
    outcome = simulate(line, arrivals, cost, pause=pause)
    assert len(outcome.later) < 0.01 * len(arrivals)
    assert outcome.late == []
    assert len(outcome.in_time) > 0.97 / load * len(arrivals)


def test_under_overload_calls_grow_until_the_pauses_between_them_matter_little() -> None:
    """A program that gains nothing from batches: one by one, a third of the time would be spent between calls."""
    each, pause = 0.001, 0.0005
    arrivals = poisson(2 / (each + pause), seconds=5.0, objective=OBJECTIVE)
    line = Schedule(Curve({2**k: each * 2**k for k in range(7)}), objective=OBJECTIVE)
    outcome = simulate(line, arrivals, lambda size: each * size, pause=pause)
    assert len(outcome.in_time) > 0.95 / each / (2 / (each + pause)) * len(arrivals)


def test_a_pause_in_which_nobody_waited_is_no_pause() -> None:
    line = Schedule(Curve({1: 0.001}))
    for second in range(100):
        line.admit(Ticket(size=1), float(second))
        assert line.next(float(second)).size == 1
        line.finished(second + 0.001)
        assert not line.next(second + 0.002).batch
    line.admit(Ticket(size=1), 1000.0)
    assert line.next(1000.0).size == 1
    assert line.wait(Ticket(size=1), 1000.0) == pytest.approx(0.002)


@pytest.mark.parametrize("waiting", [0, 10, 41, 42, 43, 60, 84, 126])
def test_the_forecast_before_decoding_is_the_one_on_arrival(waiting: int) -> None:
    line = schedule(objective=OBJECTIVE)
    for _ in range(waiting):
        line.admit(Ticket(size=1), 0.0)
    newcomer = Ticket(size=1, priority=Priority.BULK)
    seconds = line.wait(newcomer, 0.0)
    newcomer.deadline = seconds - 1e-3
    with pytest.raises(Overloaded):
        line.admit(newcomer, 0.0)
    newcomer.deadline = seconds + 1e-3
    line.admit(newcomer, 0.0)


@pytest.mark.parametrize("decoding", [0, 1, 5, 41, 42, 100])
def test_who_is_still_being_decoded_is_counted_as_if_he_waited(decoding: int) -> None:
    ahead, there = schedule(), schedule()
    for line in (ahead, there):
        for _ in range(10):
            line.admit(Ticket(size=1), 0.0)
    for _ in range(decoding):
        there.admit(Ticket(size=1), 0.0)
    newcomer = Ticket(size=1, following=decoding, priority=Priority.BULK)
    assert ahead.wait(newcomer, 0.0) == pytest.approx(there.wait(Ticket(size=1, priority=Priority.BULK), 0.0))


def test_the_line_goes_on_while_somebody_is_decoded() -> None:
    line = schedule()
    for _ in range(84):
        line.admit(Ticket(size=1), 0.0)
    queued = line.wait(Ticket(size=1), 0.0)
    assert line.wait(Ticket(size=1), 0.0, ready=0.5 * queued) == queued
    assert line.wait(Ticket(size=1), 0.0, ready=2 * queued) == pytest.approx(2 * queued + cost(1))


@pytest.mark.parametrize(("load", "least"), [(0.5, 0.995), (0.95, 0.98), (1.3, 0.70), (2.0, 0.45)])
def test_goodput_is_near_its_bound(load: float, least: float) -> None:
    arrivals = overload(load)
    assert len(simulate(schedule(), arrivals, cost).in_time) >= least * len(arrivals)


@pytest.mark.parametrize("load", [1.1, 1.3, 2.0])
def test_goodput_beats_first_in_first_out_under_overload(load: float) -> None:
    arrivals = overload(load)
    ours, theirs = (len(simulate(line, arrivals, cost).in_time) for line in (schedule(), Fifo(64)))
    assert ours > 3 * theirs


def test_calls_that_scatter_leave_few_answers_late() -> None:
    rng = random.Random(3)
    outcome = simulate(schedule(), overload(1.3), lambda size: cost(size) * rng.lognormvariate(0, 0.1))
    assert len(outcome.late) < 0.05 * len(outcome.answered)
    assert len(outcome.in_time) > 0.6 * len(overload(1.3))


def test_a_curve_that_was_wrong_at_first_is_put_right_by_the_calls() -> None:
    line = Schedule(Curve({2**k: 5 * cost(2**k) for k in range(7)}), objective=OBJECTIVE)
    arrivals = overload(0.9)
    outcome = simulate(line, arrivals, cost)
    assert len(outcome.in_time) > 0.95 * len(arrivals)


def test_a_server_that_was_too_slow_for_everybody_tries_again() -> None:
    """A load of one second makes every call miss; when it has ended, requests are answered again, without being asked by anybody."""
    line = schedule()
    arrivals = overload(0.5)
    slow = simulate(line, [a for a in arrivals if a[0] < 1.0], lambda size: 20 * cost(size))
    assert slow.at_once
    later = [a for a in arrivals if a[0] > 1.5]
    assert len(simulate(line, later, cost).in_time) > 0.9 * len(later)


@pytest.mark.parametrize("size", [1, 5, 64])
def test_a_lone_request_is_served_at_once(size: int) -> None:
    line = schedule()
    ticket = Ticket(size=size, deadline=1.0)
    line.admit(ticket, 0.0)
    assert line.next(0.0).batch == (ticket,)


def test_the_worker_is_never_idle_while_somebody_waits() -> None:
    outcome = simulate(schedule(), overload(0.8), cost)
    ends = sorted(set(outcome.answered.values()))
    arrived = {ticket: ticket.deadline - OBJECTIVE for ticket in outcome.answered}
    for ticket, began in outcome.began.items():
        assert began == pytest.approx(arrived[ticket]) or began in ends


def test_the_earliest_deadline_is_first_whoever_came_first() -> None:
    line = Schedule(Curve({1: 0.001}))
    deadlines = [5.0, 1.0, 9.0, 3.0, 7.0]
    for deadline in deadlines:
        line.admit(Ticket(size=1, deadline=deadline), 0.0)
    served = [line.next(0.0).batch[0].deadline for _ in deadlines if not line._running or line.finished(0.001) is None]
    assert served == sorted(deadlines)


def test_equal_deadlines_are_served_in_the_order_of_arrival() -> None:
    line = schedule(objective=math.inf)
    tickets = [Ticket(size=1) for _ in range(10)]
    for ticket in tickets:
        line.admit(ticket, 0.0)
    assert line.next(0.0).batch == tuple(tickets)


def test_shapes_never_share_a_call_and_none_waits_for_company() -> None:
    line = schedule()
    few, many = Ticket(size=1, shape="short", deadline=1.0), [Ticket(size=1, shape="long", deadline=2.0) for _ in range(5)]
    for ticket in (*many, few):
        line.admit(ticket, 0.0)
    assert line.next(0.0).batch == (few,)
    line.finished(0.005)
    assert line.next(0.005).batch == tuple(many)


def test_larger_samples_are_expected_to_take_longer_until_they_were_seen() -> None:
    line = Schedule(curve(), objective=OBJECTIVE, elements=100)
    line.admit(Ticket(size=1, shape="usual", elements=100, deadline=0.03), 0.0)
    with pytest.raises(Overloaded):
        line.admit(Ticket(size=1, shape="huge", elements=1000, deadline=0.03), 0.0)


def test_the_number_of_shapes_that_are_remembered_is_bounded() -> None:
    line = schedule()
    for k in range(1000):
        line.admit(Ticket(size=1, shape=k), 0.0)
        assert line.next(0.0).size == 1
        line.finished(0.0045)
    assert len(line._queues) <= 65


def test_interactive_requests_go_before_bulk_and_bulk_fills_what_is_left() -> None:
    line = schedule()
    bulk = [Ticket(size=1, priority=Priority.BULK) for _ in range(100)]
    people = [Ticket(size=1, deadline=0.05) for _ in range(3)]
    for ticket in (*bulk, *people):
        line.admit(ticket, 0.0)
    batch = line.next(0.0).batch
    assert batch[:3] == tuple(people)
    assert 3 < len(batch) <= line.best_batch
    assert set(batch[3:]) <= set(bulk)


def test_bulk_costs_interactive_requests_no_deadline() -> None:
    people = poisson(0.5 * SUSTAINABLE, seconds=10.0, objective=OBJECTIVE)
    bulk = [(k / SUSTAINABLE, Ticket(size=1, priority=Priority.BULK)) for k in range(int(10 * SUSTAINABLE))]
    outcome = simulate(schedule(max_queue=10**6), [*people, *bulk], cost)
    answered = set(outcome.in_time)
    assert sum(ticket in answered for _, ticket in people) >= 0.99 * len(people)
    assert sum(ticket in outcome.answered for _, ticket in bulk) == len(bulk)


def test_a_full_queue_of_bulk_leaves_room_for_interactive_requests() -> None:
    line = schedule(max_queue=2)
    for _ in range(2):
        line.admit(Ticket(size=1, priority=Priority.BULK), 0.0)
    with pytest.raises(QueueFull) as caught:
        line.admit(Ticket(size=1, priority=Priority.BULK), 0.0)
    assert caught.value.retry_after_seconds > 0
    line.admit(Ticket(size=1, deadline=1.0), 0.0)
    assert len(line) == 3


def test_who_comes_again_after_retry_after_is_taken_when_nobody_else_came() -> None:
    line = schedule()
    crowd = [(0.0, Ticket(size=1, deadline=OBJECTIVE)) for _ in range(1000)]
    refused = simulate(line, crowd, cost).at_once
    assert len(refused) > 500
    for after in {error.retry_after_seconds for error in refused.values()}:
        again = (after + 1e-4, Ticket(size=1, deadline=after + 1e-4 + OBJECTIVE))
        assert again[1] in simulate(schedule(), [*crowd, again], cost).answered


def test_who_has_become_hopeless_is_refused_when_the_worker_is_free() -> None:
    line = schedule()
    first, second = Ticket(size=1, deadline=0.05), Ticket(size=1, deadline=0.03)
    line.admit(first, 0.0)
    assert line.next(0.0).batch == (first,)
    line.admit(second, 0.001)
    third = Ticket(size=1, deadline=1.0)
    line.admit(third, 0.002)
    line.finished(0.2)  # it stalled
    turn = line.next(0.2)
    assert (turn.refused, turn.batch) == ((second,), (third,))


def test_under_overload_one_tight_deadline_does_not_make_the_batch_of_all_small() -> None:
    line = schedule()
    tight = Ticket(size=1, deadline=1.01 * cost(2))
    line.admit(tight, 0.0)
    others = [Ticket(size=1, deadline=OBJECTIVE) for _ in range(line.best_batch)]
    for ticket in others:
        line.admit(ticket, 0.0)
    turn = line.next(0.0)
    assert (turn.refused, turn.batch) == ((tight,), tuple(others))


def test_with_few_waiting_a_tight_deadline_gets_a_batch_that_fits_it() -> None:
    line = schedule()
    tight, other = Ticket(size=1, deadline=1.01 * cost(1)), Ticket(size=1, deadline=OBJECTIVE)
    line.admit(other, 0.0)
    line.admit(tight, 0.0)
    assert line.next(0.0).batch == (tight,)


def test_a_cancelled_request_leaves_the_queue_and_frees_its_place() -> None:
    line = schedule(max_queue=2)
    gone, stays = Ticket(size=1, deadline=1.0), Ticket(size=1, deadline=2.0)
    line.admit(gone, 0.0)
    line.admit(stays, 0.0)
    assert line.cancel(gone)
    assert not line.cancel(gone)
    line.admit(Ticket(size=1, deadline=3.0), 0.0)
    assert gone not in line.next(0.0).batch


def test_what_failed_together_is_tried_alone() -> None:
    line = schedule()
    tickets = [Ticket(size=1, deadline=1.0) for _ in range(3)]
    for ticket in tickets:
        line.admit(ticket, 0.0)
    batch = line.next(0.0).batch
    assert len(batch) == 3
    line.finished(0.001, well=False)
    for ticket in batch:
        line.put_back(ticket)
    for ticket in tickets:
        assert line.next(0.01).batch == (ticket,)
        line.finished(0.015)


def test_every_request_gets_one_end_whatever_comes() -> None:
    """Sizes, shapes, classes and deadlines at random: everybody is answered or refused exactly once, and no call is larger than it
    may be."""
    rng = random.Random(4)
    arrivals = []
    for when in itertools.accumulate(rng.expovariate(400) for _ in range(3000)):
        due = math.inf if rng.random() < 0.1 else when + rng.uniform(0.001, 0.2)
        kind = Priority.BULK if rng.random() < 0.3 else Priority.INTERACTIVE
        arrivals.append((when, Ticket(size=rng.randint(1, 8), shape=rng.randint(0, 3), deadline=due, priority=kind)))
    line = schedule(max_queue=50)
    outcome: Outcome = simulate(line, arrivals, cost)
    ends = [*outcome.answered, *outcome.at_once, *outcome.later]
    assert len(ends) == len(set(ends)) == len(arrivals)
    assert outcome.late == []
    assert len(line) == 0
    assert max(outcome.calls) <= max(line.best_batch, 8)


@pytest.mark.parametrize("seed", range(5))
def test_who_is_let_in_without_a_forecast_would_have_been_let_in_by_it(seed: int) -> None:
    """Whatever waits and runs, on however many workers, with calls that keep to the curve or do not."""
    draw = random.Random(seed)
    easy = tight = 0
    for _ in range(60):
        workers = draw.randint(1, 3)
        line = Schedule(curve(), objective=draw.choice([0.02, 0.1, math.inf]), workers=workers)
        now, running = 0.0, list[Turn]()
        for _ in range(100):
            now += draw.expovariate(200)
            shape = "rare" if draw.random() < 0.003 else "usual"
            due = now + draw.choice([0.01, 0.05, 0.2, math.inf])
            with contextlib.suppress(Overloaded):
                ticket = Ticket(size=draw.randint(1, 4), shape=shape, deadline=due, priority=Priority(draw.random() < 0.1))
                line.admit(ticket, now)
            if running and draw.random() < 0.7:
                line.finished(now, turn=running.pop(draw.randrange(len(running))))
            while (turn := line.next(now)).batch:
                running.append(turn)
            ahead, ready = draw.choice([0, 0, 1, 5]), now + draw.choice([-math.inf, 0.003, 0.05])
            for deadline in (now + draw.expovariate(20), now + line.wait(Ticket(size=1, following=ahead), now, ready=ready)):
                forecast = now + line.wait(Ticket(size=1, following=ahead, deadline=deadline), now, ready=ready)
                if line.is_easy(1 + ahead, deadline, now, ready=ready):
                    easy += 1
                    assert forecast <= deadline
                else:
                    tight += forecast > deadline
    assert easy > 500
    assert tight > 500
