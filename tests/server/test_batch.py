"""The batch command: every request once, whatever interrupted the run before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwell.engine.jobs import Limits
from qwell.engine.service import Service
from qwell.errors import UsageError
from qwell.server.batch import Batch
from qwell.server.served import Served
from qwell.server.settings import Settings
from tests.server.live import says


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    llm = says("Fine, thanks.")
    service = Service(llm, Limits())
    yield Served(llm, service, Settings())
    service.close()


def request(number: int, **over: Any) -> str:
    body = {"messages": [{"role": "user", "content": f"question {number}"}]}
    return json.dumps(
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body | over,
        }
    )


def replies(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {line["custom_id"]: line["response"] for line in lines}
    assert len(found) == len(lines)
    return found


def test_every_request_gets_one_line(served: Served, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bad = [request(7, temperature=9), request(8, stream=True), "{", '{"custom_id": "x"}']
    source.write_text("\n".join([*(request(i) for i in range(6)), *bad]) + "\n\n")
    seen: list[tuple[int, int]] = []
    work = Batch(served, source, target, progress=lambda *how: seen.append(how))
    assert work.run() == 10
    found = replies(target)
    for i in range(6):
        body = found[f"r{i}"]["body"]
        assert body["choices"][0]["message"]["content"] == "Fine, thanks."
    assert found["r7"]["status_code"] == 400
    assert found["r7"]["body"]["error"]["param"] == "temperature"
    assert {found[name]["status_code"] for name in ("r8", "line 9", "x")} == {400}
    assert seen[-1] == (10, 10)


def test_an_error_comes_back_under_the_name_of_its_request(served: Served, tmp_path: Path) -> None:
    """Or nobody could tell whose it is, and every further run would ask it again."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    wrong = json.loads(request(1)) | {"url": "/v1/embeddings"}
    source.write_text(f"{json.dumps(wrong)}\n{request(2)}\n")
    work = Batch(served, source, target)
    assert (work.run(), work.failed) == (2, 1)
    message = replies(target)["r1"]["body"]["error"]["message"]
    assert message.endswith("the url /v1/chat/completions or /v1/completions")
    assert (work.run(), work.failed) == (0, 0)


def test_a_run_goes_on_where_the_last_one_stopped(served: Served, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(request(i) for i in range(5)))
    assert Batch(served, source, target).run() == 5
    whole = target.read_bytes().splitlines(keepends=True)
    target.write_bytes(b"".join(whole[:2]) + whole[2][:20])  # killed in the third line
    assert Batch(served, source, target).run() == 3
    assert target.read_bytes().startswith(b"".join(whole[:2]))
    assert set(replies(target)) == {f"r{i}" for i in range(5)}
    assert Batch(served, source, target).run() == 0


def test_a_file_of_something_else_is_not_touched(served: Served, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "notes.txt"
    source.write_text(request(1))
    target.write_text("my notes\n")
    with pytest.raises(UsageError, match="no result of a batch"):
        Batch(served, source, target).run()
    assert target.read_text() == "my notes\n"


def test_an_id_that_is_there_twice_is_refused_before_any_work(
    served: Served, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f"{request(1)}\n{request(2)}\n{request(1)}\n")
    with pytest.raises(UsageError, match="lines 1 and 3"):
        Batch(served, source, target).run()
    assert not target.exists()
