"""What a log line may say, and in which form it reaches whom."""

from __future__ import annotations

import json
import logging

import pytest

from backlog.log import event, set_up, set_up_terminal, silenced, warn


def test_a_field_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match="patient_name"):
        event("instance.rejected", patient_name="x")
    with pytest.raises(ValueError, match="member"):
        warn("source.empty", "nothing here", member="x")


@pytest.mark.parametrize(("form", "level"), [("json", "info"), ("human", "info")])
def test_an_event_is_one_line(form: str, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(form)
    event("instance.rejected", reason="two\nlines", item=3)
    (line,) = capsys.readouterr().err.splitlines()
    assert level in line
    assert "instance.rejected" in line
    if form == "json":
        assert json.loads(line)["reason"] == "two\nlines"
        assert json.loads(line)["item"] == 3


def test_a_warning_as_json_leaves_its_sentence_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names folders, which may be named after patients."""
    set_up("json")
    warn("source.folders_unreadable", "/in/DOE^JOHN: can't be read", count=1)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["event"], told["count"]) == ("warning", "source.folders_unreadable", 1)
    assert "DOE" not in line


def test_a_terminal_gets_a_warning_as_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    set_up_terminal(shown.append)
    warn("source.folders_unreadable", "/in/50 % done: can't be read", count=1)
    event("settle.waiting", error="no answer")
    assert shown == ["/in/50 % done: can't be read"]
    event("engine.gpu_unusable", logging.WARNING, version="2")
    assert "engine.gpu_unusable version=2" in shown[1]
    assert capsys.readouterr() == ("", "")


def test_a_silenced_library_logs_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("a_library")
    with pytest.raises(KeyError), silenced("a_library"):
        library.error("a value of a header")
        raise KeyError
    library.error("afterwards")
    assert [record.getMessage() for record in caplog.records] == ["afterwards"]
