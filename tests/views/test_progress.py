"""Progress: a bar that says what it is at on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nemotron_deploy.views.progress import Shown


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=150, color_system=None), out


def test_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    shown, out = console(terminal=False)
    with Shown(shown) as bars:
        advance = bars.step("quantize", 1_000_000_000, unit="bytes")
        for done in range(0, 1_000_000_001, 50_000_000):
            advance(done, "layers.1.mixer.experts.3.up_proj, error 10.77%")
            clock[0] += 1
        bars.step("engine")
    lines = out.getvalue().splitlines()
    assert lines[0] == "Quantize"
    assert lines[-1] == "Engine directory"
    assert len(lines) == 4, "a line every ten seconds of twenty"
    assert lines[1].strip() == (
        "50%  50.00 MB/s  10 s left  layers.1.mixer.experts.3.up_proj, error 10.77%"
    )


def test_a_bar_with_rate_time_left_and_what_it_is_at() -> None:
    shown, out = console(terminal=True)
    with Shown(shown) as bars:
        advance = bars.step("quantize", 1000, unit="bytes")
        advance(400, "layers.1.mixer.[bracketed], error 10.77%")
        bars._bars.refresh()
        text = out.getvalue()
        assert "Quantize" in text
        assert "layers.1.mixer.[bracketed], error 10.77%" in text
        advance(1000)
    assert "100" in out.getvalue() or "✓" in out.getvalue()


def test_a_step_of_unknown_length_stays_quiet_where_nothing_is_redrawn() -> None:
    shown, out = console(terminal=False)
    with Shown(shown) as bars:
        bars.step("ask")(3)
    assert out.getvalue() == "Ask\n"


def test_a_note_of_several_lines_stands_below_the_bar() -> None:
    shown, out = console(terminal=True)
    with Shown(shown) as bars:
        advance = bars.step("concurrency 4", 400, unit="requests")
        advance(40, "310 tokens/s\nfirst token 80/140")
        bars._bars.refresh()
        bar, *below = out.getvalue().splitlines()[-3:]
        assert "tokens" not in bar
        assert [line.strip() for line in below] == ["310 tokens/s", "first token 80/140"]
        advance(400)


def test_a_note_of_several_lines_is_one_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    shown, out = console(terminal=False)
    with Shown(shown) as bars:
        advance = bars.step("concurrency 4", 400, unit="requests")
        clock[0] += 10
        advance(100, "310 tokens/s\nfirst token 80/140")
    assert out.getvalue().splitlines()[-1] == (
        "  25%  10.0 requests/s  30 s left  310 tokens/s; first token 80/140"
    )
