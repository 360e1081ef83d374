"""The time of the database, carried on by this machine's monotonic clock."""

from datetime import datetime, timezone

from storage.mongo.clock import StoreClock


class Machine:
    """Both clocks of a machine, moved by the test."""

    def __init__(self) -> None:
        self.monotonic_s = 1_000.0
        self.wall_s = 1_800_000_000.0

    def clock(self) -> StoreClock:
        return StoreClock(lambda: self.monotonic_s, lambda: self.wall_s)

    def pass_s(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_s += seconds


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)  # noqa: UP017


def test_until_it_is_measured_it_is_this_machines_time() -> None:
    machine = Machine()
    clock = machine.clock()
    assert clock() == 1_800_000_000_000
    machine.pass_s(1.5)
    assert clock() == 1_800_000_001_500


def test_it_is_the_servers_time_with_half_the_way_taken_off() -> None:
    machine = Machine()
    clock = machine.clock()
    asked_at = machine.monotonic_s
    machine.pass_s(0.2)
    clock.measured(at(1_800_000_060.0), asked_at, machine.monotonic_s)
    assert clock() == 1_800_000_060_100
    machine.pass_s(10)
    assert clock() == 1_800_000_070_100


def test_setting_this_machines_clock_does_not_move_it() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.measured(at(1_800_000_000.0), machine.monotonic_s, machine.monotonic_s)
    machine.wall_s -= 3_600
    assert clock() == 1_800_000_000_000


def test_it_never_runs_back_and_goes_on_where_the_server_has_caught_up() -> None:
    """A new primary that is 5 s behind: time stands still for 5 s."""
    machine = Machine()
    clock = machine.clock()
    clock.measured(at(1_800_000_005.0), machine.monotonic_s, machine.monotonic_s)
    assert clock() == 1_800_000_005_000
    clock.measured(at(1_800_000_000.0), machine.monotonic_s, machine.monotonic_s)
    assert clock() == 1_800_000_005_000
    machine.pass_s(4)
    assert clock() == 1_800_000_005_000
    machine.pass_s(2)
    assert clock() == 1_800_000_006_000


def test_a_primary_that_is_far_behind_is_approached_and_deadlines_come_late_rather_than_never() -> None:
    """A new primary an hour behind: of each 30 s, time stands still for 5, and never runs back."""
    machine = Machine()
    clock = machine.clock()
    clock.measured(at(machine.wall_s), machine.monotonic_s, machine.monotonic_s)
    began = before = clock()
    for _ in range(20):
        clock.measured(at(machine.wall_s - 3_600), machine.monotonic_s, machine.monotonic_s)
        for _ in range(30):
            machine.pass_s(1)
            assert clock() >= before
            before = clock()
    assert clock() - began == 20 * 25_000
    for _ in range(720):
        clock.measured(at(machine.wall_s - 3_600), machine.monotonic_s, machine.monotonic_s)
        machine.pass_s(30)
    assert clock() == (machine.wall_s - 3_600) * 1000


def test_what_was_told_before_the_first_measurement_holds_nothing_up() -> None:
    """This machine is an hour ahead of the database."""
    machine = Machine()
    clock = machine.clock()
    assert clock() == 1_800_000_000_000
    clock.measured(at(machine.wall_s - 3_600), machine.monotonic_s, machine.monotonic_s)
    machine.pass_s(1)
    assert clock() == 1_799_996_401_000
