"""What every parallel scheme keeps to: N ranks, as threads and as real processes, give what one gives; nobody hangs."""

import time

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.guidance.cfg import CFG
from ornstein.parallel.data import DataParallel
from ornstein.parallel.layers.communicator import Distributed, simulate
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

NAMES = [e.name for e in catalog.entries("parallel")]
COUNT = 7


def arguments():
    cond = {"label": torch.tensor([0, 1, 2, 3, 4, 4, 1])}
    return guide(Mixture.random(Flow(), dims=5, components=4), CFG(2.0)), (COUNT, 5), DDIM(eta=0.5), cond


def single(ids=None):
    denoiser, shape, solver, cond = arguments()
    return sample(denoiser, shape, solver, 6, cond=cond, seed=3, ids=ids)


def job(communicator, batch=0, ids=None):
    denoiser, shape, solver, cond = arguments()
    return DataParallel(communicator, batch).sample(denoiser, shape, solver, 6, cond=cond, seed=3, ids=ids)


def test_every_file_of_the_room_is_tested_here():
    assert set(NAMES) == {"data"}, "test the new scheme against the same contract"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("batch", [0, 2])
def test_n_ranks_are_one(size, batch):
    truth = single()
    for got in simulate(size, lambda c: job(c, batch)):
        assert torch.allclose(got, truth, atol=1e-6)


def test_ids_of_ones_own():
    ids = [40, 2, 17, 99, 5, 6, 1000]
    assert torch.allclose(simulate(3, lambda c: job(c, 0, ids))[1], single(ids), atol=1e-6)


@pytest.mark.parametrize("size,count,batch", [(3, 7, 0), (2, 8, 3), (4, 2, 0), (3, 10, 4), (5, 1, 0)])
def test_shares_cover_everything_once(size, count, batch):
    def shares(communicator):
        return DataParallel(communicator, batch).shares(count)

    for found in simulate(size, shares):
        assert [i for share in found for i in share] == list(range(count))
        assert max(map(len, found)) - min(map(len, found)) <= max(batch, 1)
        assert all(share.start % batch == 0 for share in found if batch and len(share))


def test_with_a_batch_of_its_own_the_network_calls_are_the_same_on_any_number_of_ranks():
    def calls(size):
        seen = []

        class Spy:
            process = Flow()

            def __call__(self, x, t, cond=None, clock=None):
                seen.append(clock.ids)
                return Mixture.random(Flow(), dims=5, components=4)(x, t, None, clock)

        got = simulate(size, lambda c: DataParallel(c, 2).sample(Spy(), (COUNT, 5), DDIM(), 1))
        return sorted(seen), got[0]

    assert calls(1)[0] == calls(3)[0] == [(0, 1), (2, 3), (4, 5), (6,)]
    assert torch.equal(calls(1)[1], calls(3)[1])


def test_bytes_are_counted():
    def sent(communicator):
        job(communicator)
        return communicator.sent

    assert simulate(1, sent) == [0]
    assert simulate(3, sent) == [rows * 5 * 4 * 2 for rows in (2, 2, 3)]


def test_a_rank_that_dies_is_named_and_nobody_waits():
    def work(communicator):
        if communicator.rank == 1:
            raise OSError("the disk is full")
        return job(communicator)

    began = time.monotonic()
    with pytest.raises(OSError, match="the disk is full"):
        simulate(3, work, timeout=20)
    assert time.monotonic() - began < 5

    def quits(communicator):
        return None if communicator.rank == 0 else job(communicator)

    with pytest.raises(OrnsteinError, match="lost the others.*raise the timeout"):
        simulate(2, quits, timeout=0.3)


def test_wrong_counts_and_ids_are_refused():
    with pytest.raises(OrnsteinError, match="the same on all ranks"):
        simulate(2, lambda c: c.gather_rows(torch.zeros(2, 3), [2, 1]))
    with pytest.raises(OrnsteinError, match="one id per sample"):
        simulate(1, lambda c: job(c, 0, [1, 2]))
    with pytest.raises(OrnsteinError, match="negative"):
        simulate(1, lambda c: job(c, -1))
    with pytest.raises(OrnsteinError, match="has not been started"):
        Distributed()


def real(rank, folder, dies):
    torch.set_num_threads(1)
    communicator = Distributed.start(rank, 2, f"file://{folder}/meeting", timeout=8.0)
    if dies and rank == 1:
        raise SystemExit(7)
    try:
        torch.save((job(communicator), communicator.sent), f"{folder}/{rank}.pt")
    except OrnsteinError as error:
        torch.save(str(error), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def started(folder, dies):
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=real, args=(rank, str(folder), dies), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    alive = [process for process in ranks if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive, "a rank hangs"
    return [process.exitcode for process in ranks]


@pytest.mark.timeout(90)
def test_two_real_processes_are_one(tmp_path):
    assert started(tmp_path, dies=False) == [0, 0]
    for rank in range(2):
        got, sent = torch.load(tmp_path / f"{rank}.pt")
        assert torch.allclose(got, single(), atol=1e-6)
        assert sent == 4 * 5 * 4  # its 3 rows go out padded to the other's 4


@pytest.mark.timeout(90)
def test_a_real_rank_that_dies_is_an_error_on_the_other(tmp_path):
    codes = started(tmp_path, dies=True)
    assert codes[1] == 7
    assert "rank 0 lost the others" in torch.load(tmp_path / "0.pt") and "look at its own output" in torch.load(
        tmp_path / "0.pt"
    )
