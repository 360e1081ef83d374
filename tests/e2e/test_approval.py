"""The approval example: a workflow without a user, and the promise that what runs is what was accepted."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import parley_client
import pytest
from parley_client import AsyncExecution, AsyncParley, Execution

from tests.support.ports import free_port
from tests.support.server import server_process, token

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "approval" / "README.md"
INVOICE = {"invoice": "2031-117", "supplier": "Paper & Co", "amount": 120}


@pytest.fixture
def approval(tmp_path: Path) -> Path:
    """A copy of the example; its ledger's file is in it."""
    ignored = shutil.ignore_patterns("*.db*", ".parley", "__pycache__")
    return Path(shutil.copytree(PAGE.parent, tmp_path / "approval", ignore=ignored))


def client(url: str, user: str, role: str) -> AsyncParley:
    return AsyncParley(url, token=token(user, role=role), random=lambda: 0.0)


def payments(folder: Path) -> list[tuple[object, ...]]:
    if not (folder / "payments.db").exists():
        return []
    with closing(sqlite3.connect(folder / "payments.db")) as database:
        return database.execute("SELECT invoice, supplier, amount FROM payments").fetchall()


def run_program(program: str, url: str, bearer: str) -> str:
    """Run a page's program as it stands, but for the port."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "clients" / "python" / "src")))
    assert "http://127.0.0.1:8765" in program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace("http://127.0.0.1:8765", url)],
        env={**os.environ, "PYTHONPATH": paths, "PARLEY_TOKEN": bearer},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def until(run: AsyncExecution, status: str) -> Execution:
    """Ask until an execution has this status; it is another process that works on it."""
    async with asyncio.timeout(30):
        while (found := await run.get()).status != status:
            await asyncio.sleep(0.02)
    return found


def decision(record: Execution) -> dict[str, Any]:
    (decided,) = [dict(p.decided) for p in record.pending if p.decided is not None]
    return decided


async def test_the_programs_of_the_readme_have_an_invoice_paid(approval: Path) -> None:
    asks, decides = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    with server_process(approval, PARLEY_DEFAULT_TENANT="t1") as server:
        told = run_program(asks, server.url, token("invoices", role="service"))
        assert run_program(asks, server.url, token("invoices", role="service")) == told
        execution_id = told.split()[0]
        shown = run_program(decides, server.url, token("olga", role="operator"))
        assert shown.splitlines() == ["Pay 120 euros to Paper & Co for 2031-117?"]
        run = client(server.url, "olga", "operator").execution(execution_id)
        assert (await until(run, "completed")).output == {"paid": True, "payment": 1}
    assert payments(approval) == [("2031-117", "Paper & Co", 100.0)]


async def test_what_ran_is_what_the_digest_says(approval: Path) -> None:
    with server_process(approval) as server:
        run = await client(server.url, "invoices", "service").start("pay_invoice", initial_context=INVOICE)
        office = client(server.url, "olga", "operator").execution(str(run.execution_id))
        (shown,) = await office.pending()
        await office.accept(shown, edits={"amount": 100}, comment="less the rebate")
        done = await until(office, "completed")
    (paid,) = payments(approval)
    assert paid == ("2031-117", "Paper & Co", 100.0)
    arguments = dict(zip(("invoice", "supplier", "amount"), paid, strict=True))
    whole = {"action": "ledger.pay", "arguments": arguments}
    ran = hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    decided = decision(done)
    assert decided["digest"] == ran != shown.digest
    assert (decided["by"], decided["edits"]) == ("olga", {"amount": 100})


async def test_of_two_operators_one_decides_and_the_other_is_told(approval: Path) -> None:
    with server_process(approval) as server:
        run = await client(server.url, "invoices", "service").start("pay_invoice", initial_context=INVOICE)
        desks = [
            client(server.url, name, "operator").execution(str(run.execution_id)) for name in ("olga", "oleg")
        ]
        (shown,) = await desks[0].pending()
        done = await asyncio.gather(*(desk.accept(shown) for desk in desks), return_exceptions=True)
        (late,) = [each for each in done if isinstance(each, parley_client.PendingResolved)]
        assert late.decided["by"] == ("oleg" if done[0] is late else "olga")
        await until(desks[0], "completed")
    assert len(payments(approval)) == 1


async def test_a_rejection_pays_nothing(approval: Path) -> None:
    with server_process(approval) as server:
        run = await client(server.url, "invoices", "service").start("pay_invoice", initial_context=INVOICE)
        office = client(server.url, "olga", "operator").execution(str(run.execution_id))
        (shown,) = await office.pending()
        await office.reject(shown, comment="never ordered")
        assert (await until(office, "completed")).output == {"paid": False, "why": "never ordered"}
    assert payments(approval) == []


async def test_what_lacks_a_part_fails_and_what_is_no_amount_is_refused(approval: Path) -> None:
    with server_process(approval) as server:
        parley = client(server.url, "invoices", "service")
        run = await parley.start("pay_invoice", initial_context={"invoice": "2031-117"})
        assert (await until(run, "failed")).pending == ()
        with pytest.raises(parley_client.FlowNotFound):
            await parley.start("pay_invoices", initial_context=INVOICE)


async def test_it_waits_over_a_crash_and_pays_once_over_another(approval: Path) -> None:
    """Killed while it waits, and again when the ledger has paid and the server does not know it."""
    port = free_port()
    with server_process(approval, port=port) as server:
        run = await client(server.url, "invoices", "service").start("pay_invoice", initial_context=INVOICE)
        server.kill()
    office = client(server.url, "olga", "operator").execution(str(run.execution_id))
    with server_process(approval, port=port, LEDGER_SECONDS="15") as server:
        (shown,) = await office.pending()
        await office.accept(shown)
        async with asyncio.timeout(30):
            while not payments(approval):
                await asyncio.sleep(0.02)  # another process writes that file
        server.kill()
    with server_process(approval, port=port):
        assert (await until(office, "completed")).output == {"paid": True, "payment": 1}
    assert payments(approval) == [("2031-117", "Paper & Co", 120.0)]
