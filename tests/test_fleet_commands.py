"""`passel fleet …` as a person uses it, against a fake cloud."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_clouds.headquarters import Headquarters
from fake_clouds.hetzner import FakeHetzner
from passel.errors import UsageError
from passel.fleet.commands import fleet_command
from passel.fleet.ledger import Ledger
from passel.fleet.start import ledger_path, open_fleet, start_fleet


class Desk:
    """A fleet file, a data folder, a cloud, and what the commands said."""

    def __init__(self, folder: Path) -> None:
        self.cloud = FakeHetzner(folder)
        self.cloud.boots = False
        self.data = folder / "data"
        self.file = folder / "asr.json"
        self.table = {
            "provider": "hetzner",
            "apiToken": self.cloud.secret,
            "endpoint": self.cloud.url,
            "image": "ubuntu-24.04",
            "url": "https://passel.example.org:3000",
            "imageSizeMapping": [{"maxImages": 5000, "slug": "cpx41"}],
            "machinesLimit": 3,
            "budget": 20,
        }
        self.write()
        self.said: list[str] = []

    def write(self) -> None:
        self.file.write_text(json.dumps(self.table))
        self.file.chmod(0o600)

    def run(self, *words: str) -> tuple[int, str]:
        self.said.clear()
        code = fleet_command(words, self.data, self.said.append, lambda _: None)
        return code, "\n".join(self.said)

    def grow(self, photos: int) -> None:
        """One turn of a coordinator with so many photos."""
        hq = Headquarters()
        hq.photos = photos
        fleet, ledger = open_fleet(self.file, self.data, hq, None, self.said.append)
        fleet.turn()
        ledger.close()
        hq.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.cloud.close()


def test_check_shows_everything_and_makes_nothing(desk: Desk) -> None:
    code, said = desk.run("check", str(desk.file), "--photos", "2000")
    assert code == 0
    assert "gets 3 x cpx41, tried in fsn1" in said
    assert "(8 are wanted; the limit is 3)" in said
    assert "0.0476 EUR an hour each, 0.1428 together" in said
    assert "#!/bin/sh" in said
    assert said.endswith("Nothing was made.")
    assert desk.cloud.secret not in said
    assert not desk.cloud.every_machine
    assert not desk.data.exists()
    assert {r.method for r in desk.cloud.requests} == {"GET"}


def test_check_offline_asks_nobody(desk: Desk) -> None:
    code, said = desk.run("check", str(desk.file), "--offline")
    assert code == 0
    assert "price: not known" in said
    assert not desk.cloud.requests


def test_check_with_a_wrong_key_says_so(desk: Desk) -> None:
    desk.table["apiToken"] = "wrong"
    desk.write()
    code, said = desk.run("check", str(desk.file))
    assert code == 1
    assert "check the key to the account" in said


def test_list_compares_book_and_account(desk: Desk) -> None:
    assert "The book knows of no machine" in desk.run("list")[1]
    desk.grow(500)
    desk.cloud.add("passel-0ther000-1", "cpx41", "fsn1", ["passel"], "")
    code, said = desk.run("list", str(desk.file))
    assert code == 0
    assert said.count(", in the book") == 2
    assert said.count("NOT IN THE BOOK") == 1
    assert "The account lists 3 machines" in said


def test_drain_is_kept_for_the_coordinator(desk: Desk) -> None:
    desk.grow(500)
    book = Ledger(ledger_path(desk.data))
    name = book.machines()[0].name
    with pytest.raises(UsageError, match="No such machine: nobody"):
        desk.run("drain", "nobody")
    assert desk.run("drain", name)[0] == 0
    desk.grow(500)
    desk.grow(500)
    lines = {m.name: m for m in book.machines()}
    book.close()
    assert lines[name].reason == "asked for"
    assert name not in {m.name for m in desk.cloud.machines.values()}


def test_destroy_all_asks_then_ends_everything_and_stays_closed(desk: Desk) -> None:
    desk.grow(600)
    assert len(desk.cloud.machines) == 3
    code, said = desk.run("destroy-all", str(desk.file))
    assert code == 2
    assert "--yes" in said
    assert len(desk.cloud.machines) == 3
    desk.cloud.faults["destroy"].extend(["500 before", "500 after"])
    code, said = desk.run("destroy-all", str(desk.file), "--yes")
    assert code == 0
    assert not desk.cloud.machines
    assert "closed until: passel fleet open --data /" in said
    desk.grow(600)
    assert not desk.cloud.machines
    desk.run("open")
    desk.grow(600)
    assert len(desk.cloud.machines) == 3


def test_spend_counts_the_dead(desk: Desk) -> None:
    desk.grow(250)
    desk.run("destroy-all", str(desk.file), "--yes")
    code, said = desk.run("spend", str(desk.file))
    assert code == 0
    assert "1 machines" in said
    assert "spent this month: 0.05 EUR of 20 EUR a month" in said, "Hetzner bills whole hours"


def test_serve_starts_and_stops_a_fleet(desk: Desk) -> None:
    hq = Headquarters()
    desk.table["turn"] = 0.05
    desk.write()
    running = start_fleet(desk.file, desk.data, hq, None, desk.said.append)
    assert running.stop() == ""
    hq.photos = 100
    running.ledger.close()
    running = start_fleet(desk.file, desk.data, hq, None, desk.said.append)
    while not desk.cloud.machines:
        running.thread.join(0.05)
    told = running.stop()
    assert "1 machines of the fleet run on and cost money" in told
    assert not running.thread.is_alive()
    running.ledger.close()
    hq.close()


def test_a_fleet_whose_book_is_lost_is_ended_by_its_tag_and_no_other(desk: Desk) -> None:
    desk.grow(700)
    lost = Ledger(ledger_path(desk.data))
    fleet = lost.fleet
    lost.close()
    mine = [m.name for m in desk.cloud.every_machine]
    assert len(mine) == 3
    shutil.rmtree(desk.data)
    desk.grow(200)  # a new coordinator with the same file: another fleet
    others = {m.name for m in desk.cloud.machines.values()} - set(mine)
    code, said = desk.run("destroy-all", str(desk.file), "--yes")
    assert code == 0
    assert f"3 machines of another fleet run in this account: {fleet}" in said
    assert {m.name for m in desk.cloud.machines.values()} == set(mine)
    assert others
    desk.run("open")
    desk.grow(200)
    code, said = desk.run("destroy-all", str(desk.file), "--fleet", fleet)
    assert (code, len(desk.cloud.machines)) == (2, 4)
    desk.cloud.faults["destroy"].append("500")
    desk.cloud.faults["list"].append("twice")
    code, said = desk.run("destroy-all", str(desk.file), "--fleet", fleet, "--yes")
    assert code == 0
    left = [m.name for m in desk.cloud.machines.values()]
    assert len(left) == 1
    assert left[0] not in mine


def test_published_prices_are_guesses_and_no_budget_counts_on_them(desk: Desk) -> None:
    desk.table |= {"imageSizeMapping": [{"maxImages": 5000, "slug": "cx43"}], "location": "nbg1"}  # which tells none
    desk.write()
    _, said = desk.run("check", str(desk.file), "--offline")
    assert "price: about 0.021 EUR an hour each" in said
    assert "before the rises of April and June 2026" in said
    _, said = desk.run("check", str(desk.file))
    assert "with a budget NOTHING WOULD BE MADE: write what an hour of cx43 costs you as priceHour" in said
    desk.grow(300)
    assert not desk.cloud.every_machine
    del desk.table["budget"]
    desk.write()
    desk.grow(300)
    assert desk.cloud.every_machine
