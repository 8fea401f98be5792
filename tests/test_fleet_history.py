"""Any history of faults: the fleet ends empty, never over its limit, never over its budget, every second in the book."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fake_clouds.simulated import Killed, SimMachine
from fleet_world import LIMITS, RATES, TURN_S, World, config
from passel.fleet.machine import Power

BUDGET = 3.0
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Thousands of turns, each forced to disk, would wear out a busy computer's patience."""
TURNS = st.sampled_from([0, 1, 1, 2, 5, 20, 60])
CREATE_FAULTS = ["no capacity", "busy", "refused", "lost", "made, no answer"]
_DOWN_S = 20.0


class History(RuleBasedStateMachine):
    """Hypothesis plays the world: work comes and goes, clouds fail, the process dies."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="passel-fleet-", dir=MEMORY))
        self.world = World(self.folder, config(budget=BUDGET))
        self.excused_s = 0.0
        """How long the coordinator was dead or deaf, so that it could not act."""

    def teardown(self) -> None:
        world = self.world
        for faults in (world.cloud.create_faults, world.cloud.list_faults, world.cloud.destroy_faults):
            faults.clear()
        world.cloud.tripwire, world.cloud.revoked = None, False
        world.coordinator.photos = 0
        world.coordinator.finish_steps()
        world.until(lambda: not world.alive() and not any(m.alive for m in world.book().values()), 400)
        self._check_the_book()
        world.ledger.close()
        shutil.rmtree(self.folder)

    def _check_the_book(self) -> None:
        """Each machine that ever was stands in the book with at least its real time, and the sum is no less than the bill."""
        lines = {m.name: m for m in self.world.ledger.machines()}
        for machine in self.world.cloud.machines:
            if not machine.fleet:
                continue
            line = lines[machine.name]
            assert line.started_s is not None
            assert line.gone_s is not None
            assert line.started_s <= machine.created_s
            assert line.gone_s >= (machine.ended_s or 0.0)
        assert self._bill() <= self.world.fleet.spent()

    # --- the world; after each thing that happens some turns pass

    @initialize(
        photos=st.sampled_from([150, 450, 2000]), turns=st.sampled_from([0, 1, 5, 20]), told_apart=st.booleans()
    )
    def work_arrives(self, photos: int, turns: int, told_apart: bool) -> None:
        """told_apart: whether the queue knows drains that we ordered from those that workers began themselves."""
        self.world.coordinator.told_apart = told_apart
        self.world.coordinator.photos = photos
        self._turns(turns)

    @rule(photos=st.sampled_from([0, 40, 150, 450, 2000]), end_steps=st.booleans(), turns=TURNS)
    def work_changes(self, photos: int, end_steps: bool, turns: int) -> None:
        self.world.coordinator.photos = photos
        if end_steps:
            self.world.coordinator.finish_steps()
        self._turns(turns)

    @rule(moment=st.integers(0, 12), turns=TURNS)
    def killed(self, moment: int, turns: int) -> None:
        """kill -9 at the n-th moment of a turn, and a new process a little later."""
        self.world.cloud.tripwire = moment
        try:
            self._turns(1)
        except Killed:
            self.world.ledger.close()
            self.world.clock.now_s += _DOWN_S
            self.excused_s += _DOWN_S + TURN_S
            self.world.start()
        self.world.cloud.tripwire = None
        self._turns(turns)

    @rule(faults=st.lists(st.sampled_from(CREATE_FAULTS), min_size=1, max_size=3), turns=TURNS)
    def creates_fail(self, faults: list[str], turns: int) -> None:
        self.world.cloud.create_faults.extend(faults)
        self._turns(turns)

    @rule(fault=st.sampled_from(["down", "twice", "forgets one"]), turns=TURNS)
    def list_fails(self, fault: str, turns: int) -> None:
        faults = [fault] if fault != "forgets one" else [fault] * 2 + ["none"]  # no cloud forgets the same one for long
        self.world.cloud.list_faults.extend(faults)
        self._turns(turns)

    @rule(fault=st.sampled_from(["down", "done, no answer"]), turns=TURNS)
    def destroy_fails(self, fault: str, turns: int) -> None:
        self.world.cloud.destroy_faults.append(fault)
        self._turns(turns)

    @rule(after_s=st.sampled_from([None, 0.0, 90.0, 280.0]), lag_s=st.sampled_from([0.0, 15.0, LIMITS.grace_s * 0.7]))
    def boots_differently(self, after_s: float | None, lag_s: float) -> None:
        self.world.cloud.boots.append(after_s)
        self.world.cloud.lags.append(lag_s)

    @precondition(lambda self: self.world.alive())
    @rule(data=st.data(), how=st.sampled_from(["vanishes", "off", "silent", "evicted", "retires"]), turns=TURNS)
    def machine_breaks(self, data: st.DataObject, how: str, turns: int) -> None:
        machine = self._some_machine(data)
        if how == "vanishes":
            machine.ended_s = self.world.clock()
        elif how == "off":
            machine.power = Power.OFF
        elif how == "silent":
            machine.silent = True
        elif how == "retires":
            machine.retiring = True
        else:
            machine.evicted = True
        self._turns(turns)

    @precondition(lambda self: self.world.alive())
    @rule(data=st.data(), turns=TURNS)
    def line_is_lost(self, data: st.DataObject, turns: int) -> None:
        """The book forgets a machine that the cloud shows."""
        machine = self._some_machine(data)
        if self.world.clock() >= machine.created_s + machine.shown_after_s:
            self.world.cloud.list_faults.clear()
            self.world.ledger._db.execute("delete from machine where name = ?", (machine.name,))
            self._turns(1 + turns)

    @rule(turns=st.sampled_from([1, 5, 40]))
    def key_is_revoked(self, turns: int) -> None:
        """For a while; until then nobody can end what runs."""
        self.world.cloud.revoked = True
        self.excused_s += (turns + 1) * TURN_S
        self._turns(turns)
        self.world.cloud.revoked = False

    @rule(closed=st.booleans(), turns=TURNS)
    def closed_or_opened(self, closed: bool, turns: int) -> None:
        self.world.ledger.close_fleet(closed)
        self._turns(turns)

    # --- what always holds

    @invariant()
    def never_over_the_limit(self) -> None:
        assert len(self.world.alive()) <= (LIMITS.machines or 0)

    @invariant()
    def never_over_the_budget(self) -> None:
        excuse = self.excused_s * (LIMITS.machines or 0) * max(RATES.values()) / 3600
        assert self._bill() <= BUDGET + excuse, (self._bill(), self.excused_s)

    def _bill(self) -> float:
        """What the cloud will charge: to the second, at least a minute."""
        now_s = self.world.clock()
        ours = [m for m in self.world.cloud.machines if m.fleet]
        return sum(max(60.0, (m.ended_s or now_s) - m.created_s) * RATES[m.size] / 3600 for m in ours)

    def _some_machine(self, data: st.DataObject) -> SimMachine:
        return data.draw(st.sampled_from(self.world.alive()))

    def _turns(self, count: int) -> None:
        cloud = self.world.cloud
        for _ in range(count):
            if "down" in (*list(cloud.list_faults)[:1], *cloud.destroy_faults):
                self.excused_s += TURN_S
            self.world.turns(1)
            self.never_over_the_limit()
            self.never_over_the_budget()


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=150,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
