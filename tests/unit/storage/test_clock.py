"""The steady clock: it follows the wall clock without ever going back."""

from storage.clock import CHECK_EVERY_MS, SLEW_MS, SteadyClock


class Machine:
    """A machine with a wall clock that people set and a monotonic one that they cannot."""

    def __init__(self) -> None:
        self.wall_ms = 1_800_000_000_000
        self.running_ms = 5_000
        self.clock = SteadyClock(lambda: self.wall_ms * 1_000_000, lambda: self.running_ms * 1_000_000)

    def run(self, ms: int) -> int:
        self.wall_ms += ms
        self.running_ms += ms
        return self.clock()


def test_it_tells_the_wall_clocks_time() -> None:
    machine = Machine()
    assert machine.clock() == machine.wall_ms
    for _ in range(100):
        assert machine.run(1234) == machine.wall_ms


def test_a_wall_clock_set_back_never_turns_it_back_nor_stops_it_for_long() -> None:
    machine = Machine()
    machine.wall_ms -= 3_600_000
    previous = machine.clock()
    stood_still = 0
    for _ in range(4 * 3600):
        now = machine.run(1000)
        assert now >= previous
        stood_still = stood_still + 1 if now == previous else 0
        assert stood_still * 1000 <= SLEW_MS
        previous = now
    assert previous == machine.wall_ms


def test_a_wall_clock_set_forward_is_followed() -> None:
    machine = Machine()
    machine.wall_ms += 3_600_000
    machine.run(CHECK_EVERY_MS)
    assert machine.clock() == machine.wall_ms


def test_between_two_checks_a_jump_is_not_seen() -> None:
    machine = Machine()
    machine.run(CHECK_EVERY_MS)
    before = machine.clock()
    machine.wall_ms += 3_600_000
    assert machine.run(1000) == before + 1000
