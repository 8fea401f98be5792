"""What the gateway decides, without any node: addresses, routing, policy, when a task is given up, and the book's bookkeeping."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp import web

from passel.cluster.trust.authority import Authority
from passel.errors import UsageError
from passel.gateway.attempt import Attempt, Stage
from passel.gateway.book import Book
from passel.gateway.circle import MOST_TOLD, circle, reached
from passel.gateway.commands import node_command
from passel.gateway.desk import NewNode, NodeDesk, NodeLine
from passel.gateway.forward import given_up
from passel.gateway.node import Node, Seen, node_at
from passel.gateway.nodes_file import autoscaled, read_nodes_file
from passel.gateway.policy import Engine, parts_owner, read_policy, ruled
from passel.gateway.routing import Need, can_fan_out, choose, free_slots
from passel.server.jobs import GivenOption
from passel.server.settings import Limits

NOW = 1000.0
NEED = Need("job", 1, "owner", 100)


def seen(**more) -> Seen:
    facts = {"at_s": NOW, "engine": "odm", "engine_version": "3.5", "api_version": "2.2.4", "queue": 0}
    facts |= {"max_parallel": 1, "max_images": None, "memory_bytes": 8 << 30, "cpus": 4}
    return Seen(**{**facts, **more})


def node(name: str, seconds_a_photo: float | None = None, locked: bool = False, **more) -> Node:
    return Node(name, f"http://{name}:3000", locked=locked, seconds_a_photo=seconds_a_photo, seen=seen(**more))


def attempt(number: int, node: str, stage: Stage = Stage.COMMITTED, **more) -> Attempt:
    return Attempt(number, f"job{number}", 1, "owner", node, f"job{number}", stage, 100, NOW, **more)


@pytest.mark.parametrize(
    ("text", "url", "token"),
    [
        ("host", "http://host:3000", ""),
        ("host:443", "https://host:443", ""),
        ("https://host", "https://host:443", ""),
        ("http://10.0.0.1:3001/?token=t", "http://10.0.0.1:3001", "t"),
        ("http://[::1]:3000", "http://[::1]:3000", ""),
    ],
)
def test_addresses(text, url, token):
    found = node_at(text)
    assert (found.url, found.token) == (url, token)


@pytest.mark.parametrize(
    "text",
    ["", "ftp://host", "http://host/path", "http://a:b@host", "http://:b@host", "host:99999", "ho st", "http://"],
)
def test_what_is_no_address(text):
    with pytest.raises(UsageError):
        node_at(text)


def test_smallest_fitting_node_first_then_the_fastest():
    small, large, fast = node("small", max_images=150), node("large"), node("fast", 0.5)
    assert choose([large, small, fast], [], NEED, NOW).node == small
    assert choose([large, small, fast], [], replace(NEED, photos=200), NOW).node == fast


@pytest.mark.parametrize(
    ("nodes", "words", "hopeless"),
    [
        ([], "there are no nodes", True),
        ([node("a", max_images=50)], "100 photos are more than any node takes (at most 50)", True),
        ([node("a", at_s=NOW - 100)], "online", False),
        ([node("a", locked=True)], "unlocked", False),
        ([node("a", queue=1)], "all nodes are busy", False),
        ([replace(node("a"), trouble="html")], "online", False),
        ([replace(node("a"), isolated_until_s=NOW + 5)], "online", False),
    ],
)
def test_why_no_node(nodes, words, hopeless):
    choice = choose(nodes, [], NEED, NOW)
    assert choice.node is None
    assert words in choice.why
    assert choice.hopeless == hopeless


def test_slots_count_ours_once_and_those_of_others():
    busy = node("a", max_parallel=4, queue=2)
    assert free_slots(busy, []) == 2
    assert free_slots(busy, [attempt(1, "a", committed_s=NOW - 5)]) == 2  # one of the two is ours
    assert free_slots(busy, [attempt(1, "a", Stage.SENDING)]) == 1  # the node does not know it yet
    assert free_slots(busy, [attempt(1, "other")]) == 2


def test_a_clock_that_is_set_back_isolates_nobody_for_years():
    alone = replace(node("a"), isolated_until_s=NOW + 600)
    assert [alone.is_isolated(NOW + s) for s in (-(10**8), 0, 599, 600)] == [False, True, True, False]


def test_an_answer_that_was_on_its_way_does_not_end_an_isolation(tmp_path):
    book = Book(tmp_path / "book")
    book.add(node_at("one"))
    asked = book.node("one:3000")
    book.troubled("one:3000", "no space left", lies=True)
    book.answered(asked, seen())
    isolated = book.node("one:3000")
    assert isolated.is_isolated(book.now_s())
    assert isolated.trouble == "no space left"
    book.answered(isolated, seen())  # asked since: by a person
    assert not book.node("one:3000").is_isolated(book.now_s())
    book.close()


def test_a_node_that_lost_the_task_is_the_last_resort():
    nodes = [node("a"), node("b", 9.0)]
    assert choose(nodes, [], replace(NEED, avoided=frozenset({"a"})), NOW).node == nodes[1]
    assert choose(nodes[:1], [], replace(NEED, avoided=frozenset({"a"})), NOW).node == nodes[0]
    starved = replace(NEED, above_memory_bytes=8 << 30)
    assert choose(nodes, [], starved, NOW).hopeless
    assert choose([*nodes, node("c", memory_bytes=16 << 30)], [], starved, NOW).node.name == "c"


def test_split_tasks_never_take_the_last_slot():
    parent = replace(NEED, fans_out=True)
    nodes = [node("a"), node("b")]
    assert choose(nodes, [], parent, NOW).node is not None
    assert choose(nodes, [attempt(1, "a", fans_out=True)], parent, NOW).node is None
    assert choose(nodes, [attempt(1, "a", fans_out=True)], NEED, NOW).node == nodes[1]
    assert not can_fan_out(nodes[:1], NOW)


def test_no_more_tasks_than_a_token_may_have():
    need = replace(NEED, most_open=1)
    assert choose([node("a"), node("b")], [attempt(1, "a")], need, NOW).node is None
    assert choose([node("a"), node("b")], [replace(attempt(1, "a"), owner="other")], need, NOW).node is not None


def test_a_task_that_fails_everywhere_is_given_up():
    ended = [attempt(i, f"n{i}", Stage.ENDED, outcome="forgot the task", blamed=True) for i in range(3)]
    assert given_up(ended[:2]) is None
    assert given_up([*ended[:2], replace(ended[2], blamed=False)]) is None
    end = given_up(ended)
    assert end is not None
    assert "3 times on 3 nodes" in end.text
    assert "n0, n1, n2" in end.text
    assert given_up([replace(e, node="same") for e in ended]) is None
    assert given_up([replace(e, node="same") for e in ended * 2]) is not None


def test_policy(tmp_path):
    file = tmp_path / "policy.json"
    rules = {
        "split": {"remove": True},
        "pc-quality": {"value": "low"},
        "auto-boundary": {"assure": True, "value": True},
    }
    rules["orthophoto-resolution"] = {"between": {"min": 2, "max": 10}}
    rules["dem-resolution"] = {"between": {"min": 2, "max": 10, "max_if_equal_to": 1}}
    club = {"engine": "odm", "maxImages": 5, "maxConcurrentTasks": 2, "options": rules}
    file.write_text(json.dumps({"default": {"engine": "passel"}, "tokens": {"club": club}}))
    policy = read_policy(file)
    assert policy.of("somebody").engine is Engine.PASSEL
    allowance = policy.of("club")
    assert (allowance.engine, allowance.max_images, allowance.most_tasks) == (Engine.ODM, 5, 2)
    given = [
        ("split", 40),
        ("pc-quality", "ultra"),
        ("orthophoto-resolution", 0.5),
        ("dem-resolution", 1.0),
        ("dsm", True),
    ]
    options, told = ruled(tuple(GivenOption(*g) for g in given), allowance)
    assert {o.name: o.value for o in options} == {
        "pc-quality": "low",
        "orthophoto-resolution": 2.0,
        "dem-resolution": 10.0,
        "dsm": True,
        "auto-boundary": True,
    }
    assert len(told) == 4


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"x": 1}', '{"default": {"engine": "best"}}', '{"default": {"maxImages": true}}'),
        *('{"default": {"options": {"no-such": {}}}}', '{"default": {"options": {"split": {"value": "many"}}}}'),
        '{"default": {"options": {"split": {"domain": "1 <= x"}}}}',
    ],
)
def test_a_wrong_policy_is_named(tmp_path, text):
    file = tmp_path / "policy.json"
    file.write_text(text)
    with pytest.raises(UsageError):
        read_policy(file)


def test_a_node_file_of_clusterodm(tmp_path):
    rows = [{"hostname": "a", "port": "3000", "token": "t", "locked": True}, {"hostname": "b", "port": 443}]
    rows.append({"hostname": "c", "port": 3000, "token": "", "dockerMachine": {"name": "x"}})
    (tmp_path / "nodes.json").write_text(json.dumps(rows))
    a, b = read_nodes_file(tmp_path / "nodes.json")
    assert autoscaled(tmp_path / "nodes.json") == 1
    assert (a.url, a.token, a.locked) == ("http://a:3000", "t", True)
    assert b.url == "https://b:443"
    (tmp_path / "bad.json").write_text('[{"port": 1}]')
    with pytest.raises(UsageError, match="Entry 1"):
        read_nodes_file(tmp_path / "bad.json")


def test_the_book_holds_a_slot_for_one_and_remembers_what_ran(tmp_path):
    book = Book(tmp_path / "book.sqlite", lambda: NOW)
    book.add(node("a"))
    _, first = book.claim(NEED)
    assert first.remote_uuid == "job"
    assert book.claim(replace(NEED, job="other"))[1] is None
    other_process = Book(tmp_path / "book.sqlite", lambda: NOW)
    other_process.note_sent(first, "x.jpg")
    other_process.end(first, "lost: silent", blamed=True)
    second = book.claim(NEED)[1]
    assert second.remote_uuid != "job"
    assert book.sent(second) == frozenset()
    assert book.sent(first) == {"x.jpg"}
    book.done(book.committed(second), 50.0)
    assert [a.outcome for a in book.attempts("job", 1)] == ["lost: silent", "done"]
    assert book.node("a").seconds_a_photo == 0.5
    book.add(replace(node_at("http://elsewhere"), name="a"))
    assert (book.node("a").url, book.node("a").seconds_a_photo) == ("http://elsewhere:3000", None)
    book.close()
    other_process.close()


def test_commands_without_any_node(tmp_path):
    said: list[str] = []

    def run(*words: str) -> int:
        said.clear()
        return node_command(words, tmp_path, said.append)

    assert run("list") == 0
    assert f"passel node add http://host:3000 --data {tmp_path}" in said[0]
    assert run("best", "10") == 1
    assert run("add", "http://127.0.0.1:9", "--token", "secret", "--name", "gone") == 1
    assert "gone is added, but gets no tasks yet" in said[0]
    assert run("lock", "gone") == 0
    assert run("list") == 0
    assert "offline" in said[0]
    assert "locked" in said[0]
    assert run("info", "http://127.0.0.1:9") == 0
    assert not any("secret" in line for line in said)
    assert run("list", "--json") == 0
    assert json.loads(said[0])[0]["name"] == "gone"
    assert run("unlock", "gone") == 0
    assert run("del", "gone") == 0
    with pytest.raises(UsageError, match="no such node"):
        run("info", "gone")


def test_a_node_with_tls_is_believed_by_its_authority_or_its_pin_only(tmp_path):
    authority = Authority.open(tmp_path / "identity")

    async def info(_: web.Request) -> web.Response:
        said = {"version": "2.2.4", "taskQueueCount": 0, "maxParallelTasks": 1, "maxImages": None}
        return web.json_response({**said, "engine": "odm", "engineVersion": "3.5"})

    async def looked_at() -> dict[str, NodeLine]:
        app = web.Application()
        app.add_routes([web.get("/info", info)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server_context(["127.0.0.1"])).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        try:
            stranger = await desk.add(NewNode(url))
            desk.delete(url)
            shown = stranger.trouble.split("if ")[1].split(" is")[0]
            pinned = await desk.add(NewNode(url, pin=shown.upper()))
            wrong = await desk.add(NewNode(url, pin="0" * 64))
            known = await desk.add(NewNode(url, ca_file=str(authority.ca)))
            return {"stranger": stranger, "pinned": pinned, "wrong": wrong, "known": known}
        finally:
            await runner.cleanup()

    book = Book(tmp_path / "book.sqlite")
    desk = NodeDesk(book)
    lines = asyncio.run(looked_at())
    assert {name: line.state for name, line in lines.items()} == {
        "stranger": "offline",
        "pinned": "online",
        "wrong": "offline",
        "known": "online",
    }
    assert "certificate is not trusted: " in lines["stranger"].trouble
    assert "not the one that was pinned" in lines["wrong"].trouble
    with pytest.raises(UsageError, match="No SHA-256"):
        asyncio.run(desk.add(NewNode("https://somewhere", pin="abc")))
    book.close()


def test_a_node_is_in_the_book_once_and_a_list_leaves_its_settings(tmp_path):
    book = Book(tmp_path / "book.sqlite", lambda: NOW)
    book.add(replace(node_at("http://a"), name="big", max_upload_mb_s=5.0))
    with pytest.raises(UsageError, match="known already"):
        book.add(node_at("http://a"))
    book.change("big", lambda n: replace(n, locked=True))
    book.enroll(node_at("http://a", "secret"))
    (known,) = book.nodes()
    assert (known.name, known.token, known.max_upload_mb_s, known.locked) == ("big", "secret", 5.0, True)
    book.close()


def test_limits_of_a_token_are_the_servers_and_parts_do_not_count_as_tasks(tmp_path):
    file = tmp_path / "policy.json"
    club = {"maxImages": 5, "maxSizeMb": 8, "maxConcurrentTasks": 2}
    file.write_text(json.dumps({"tokens": {"club": club}}))
    policy, usual = read_policy(file), Limits(max_images=100)
    limits = policy.limits("club", usual)
    assert (limits.max_images, limits.max_task_bytes, limits.max_file_bytes) == (5, 8_000_000, 8_000_000)
    assert limits.max_tasks_a_owner == 2
    assert policy.limits("anybody", usual) == usual
    parts = policy.limits(parts_owner("club"), usual)
    assert (parts.max_images, parts.max_tasks_a_owner) == (5, usual.max_tasks_a_owner)
    assert parts_owner(parts_owner("club")) == "parts of club"


def test_who_a_task_may_come_to_is_forgotten_when_a_circle_is_opened():
    """a → b → c → a: each finds itself behind its node; what stood in the circle is not told on for ever."""
    nodes = (node("odm"), node("b", passels=("b", "c", "a")), node("d", passels=("d", "e")))
    assert reached("a", nodes) == ("a", "b", "d", "e")
    assert "round in a circle" in circle("a", nodes[1].seen)
    assert "this Passel itself" in circle("b", nodes[1].seen)
    assert circle("a", nodes[0].seen) == circle("a", nodes[2].seen) == ""
    assert len(reached("a", [node("many", passels=tuple(f"n{i}" for i in range(1000)))])) == MOST_TOLD
