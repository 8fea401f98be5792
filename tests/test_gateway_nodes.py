"""What nodes do to a gateway, with real fake nodes as processes: full disks, pauses, poison, speed, bandwidth, long answers."""

from __future__ import annotations

import asyncio
import time

from gateway_world import Fake, Front, PasselNode, digests, photos, running, submit
from passel.gateway.desk import NewNode, NodeDesk


def nodes_of(front: Front, task: str) -> list[int]:
    """The ports of the nodes that had the task, one after the other."""
    return [int(a.node.rpartition(":")[2]) for a in front.attempts(task)]


def state_of(front: Front, node: Fake | PasselNode) -> tuple[bool, str]:
    """Whether the gateway leaves the node alone, and why."""
    book = front.book
    known = book.node(node.url)
    book.close()
    return known.is_isolated(time.time()), known.trouble


def lock(front: Front, node: Fake, on: bool) -> None:
    book = front.book
    NodeDesk(book).lock(node.url, on)
    book.close()


def test_nodes_with_full_disks_rest(tmp_path):
    moments = ("init", "upload", "task")
    full = [Fake(tmp_path / moment, full=moment, max_images=50 + i) for i, moment in enumerate(moments)]
    other = Fake(tmp_path / "other")
    with running(tmp_path / "front", *full, other) as front:
        front.online(*full, other)
        task = submit(front, photos("x", 3))
        assert front.wait_for(task, 40, 30) == 40
        assert nodes_of(front, task) == [n.port for n in (*full, other)]
        assert [a.blamed for a in front.attempts(task)] == [False, False, True, False]  # it may be what fills disks
        for node in full:
            isolated, why = state_of(front, node)
            assert isolated
            assert "no space left" in why
        again = submit(front, photos("y", 3))
        assert front.wait_for(again, 40, 30) == 40
        assert nodes_of(front, again) == [other.port]


def test_a_task_that_kills_nodes_does_not_kill_them_all(tmp_path):
    nodes = [Fake(tmp_path / f"n{i}", poisoned=1) for i in range(4)]
    with running(tmp_path / "front", *nodes, silent_s=0.5) as front:
        front.online(*nodes)
        task = submit(front, photos("x", 2))
        assert front.wait_for(task, 40, 30) == 30
        words = front.info(task)["status"]["errorMessage"]
        assert "failed 3 times on 3 nodes" in words
        assert sum(n.process.poll() is None for n in nodes) == 1
        named = [n for n in nodes if f"127.0.0.1:{n.port}" in words]
        assert len(named) == 3


def test_pauses_bandwidth_and_the_speed_that_was_measured(tmp_path):
    """One node asks for pauses and may be sent 1 MB/s only; then both are known, and the faster one gets the work."""
    slow, fast = Fake(tmp_path / "slow", told_seconds=30, busy=3), Fake(tmp_path / "fast", told_seconds=3)
    files = {f"{i}.jpg": bytes([i]) * 500_000 for i in range(4)}
    with running(tmp_path / "front", slow, fast) as front:
        front.online(slow, fast)
        book = front.book
        asyncio.run(NodeDesk(book).add(NewNode(slow.url, max_upload_mb_s=1.0)))
        book.close()
        begun_s = time.monotonic()
        for first, second in ((slow, fast), (fast, slow)):
            lock(front, second, True)
            task = submit(front, files)
            assert front.wait_for(task, 40, 30) == 40
            assert [(a.node, a.outcome) for a in front.attempts(task)] == [(f"127.0.0.1:{first.port}", "done")]
            assert first.journal("completed")[0]["digests"] == digests(files)
            assert time.monotonic() - begun_s >= 1.9  # 2 MB at 1 MB/s; a busy machine only makes it longer
            lock(front, second, False)
        assert len(slow.journal("busy")) == 3
        for i in range(2):
            task = submit(front, photos(f"x{i}", 2))
            assert front.wait_for(task, 40, 30) == 40
            assert nodes_of(front, task) == [fast.port]


def test_a_node_given_up_for_lost_has_its_task_again_when_it_is_back(tmp_path):
    """Nobody else is there; it is away for longer than patience lasts, and works on meanwhile."""
    node = PasselNode(tmp_path / "node", seconds=3.0)
    with running(tmp_path / "front", node, silent_s=0.5) as front:
        front.online(node)
        task = submit(front, photos("x", 3))
        front.wait(lambda: node.get(f"/task/{task}/info").get("status", {}).get("code") == 20)
        node.kill()
        front.wait(lambda: [a.outcome[:4] for a in front.attempts(task)] == ["lost"])
        node.start()
        assert front.wait_for(task, 40, 30) == 40
        assert [(a.outcome, a.blamed) for a in front.attempts(task)] == [("done", False)]
        assert any("is back, with the task" in line for line in front.info(task, with_output=0)["output"])


def test_a_node_that_is_taken_out_loses_its_task_to_another(tmp_path):
    keep = tmp_path / "keep"
    keep.touch()
    first, other = Fake(tmp_path / "first", keep=str(keep), max_images=50), Fake(tmp_path / "other")
    with running(tmp_path / "front", first, other) as front:
        front.online(first, other)
        task = submit(front, photos("x", 2))
        front.wait(lambda: len(first.journal("began")) == 1)
        book = front.book
        NodeDesk(book).delete(first.url)
        book.close()
        assert front.wait_for(task, 40, 30) == 40
        assert [(a.outcome, a.blamed) for a in front.attempts(task)] == [
            ("its node was taken out", False),
            ("done", False),
        ]


def test_answers_without_end_and_too_much_output_isolate_the_node(tmp_path):
    drip = Fake(tmp_path / "drip", lie="drip", max_images=50)
    talks = Fake(tmp_path / "talks", lie="lines", lie_at="task", max_images=50)
    honest = Fake(tmp_path / "honest")
    with running(tmp_path / "front", drip, talks, honest, silent_s=1.0) as front:
        front.online(honest, talks)
        task = submit(front, photos("x", 3))
        assert front.wait_for(task, 40, 30) == 40
        assert nodes_of(front, task) == [talks.port, honest.port]
        assert state_of(front, talks) == (True, "It sent output that is none")
        front.wait(lambda: state_of(front, drip) == (True, "Its answer to /info never ends"))
        assert state_of(front, honest) == (False, "")
