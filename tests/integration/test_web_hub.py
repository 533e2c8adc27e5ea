"""The hub by itself: which reader gets which batches, and that nothing is left when readers leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tasks.job import Job
from tasks.log import StatusEntry
from web.relay.events import Batch
from web.relay.hub import Hub
from web.relay.subscriptions import MAX_BATCHES, Channel, Subscription


def batch(seq: int) -> Batch:
    return Batch(seq, [StatusEntry(seq).encode()])


@pytest.fixture
def hub(redis_url: str) -> Iterator[Hub]:
    opened = Hub(redis_url)
    yield opened
    opened.stop()


@pytest.fixture
def subscription() -> Subscription:
    return Subscription(Channel())


def received_by(received: list[Batch]) -> Callable[[Batch], bool]:
    """Returns a receiver that adds each batch to the list."""

    def receive(batch: Batch) -> bool:
        received.append(batch)
        return True

    return receive


@contextmanager
def waiting(subscription: Subscription) -> Iterator[list[list[Batch]]]:
    """Waits in another thread for what the block offers, and yields a list for it."""
    taken: list[list[Batch]] = []

    def take() -> None:
        taken.append(subscription.take(TIMEOUT_SECONDS) or [])

    taker = threading.Thread(target=take)
    taker.start()
    eventually(lambda: subscription._is_waiting)
    yield taken
    taker.join()


def test_batches_come_in_order_and_once(subscription: Subscription) -> None:
    batches = [batch(1), batch(2)]
    for each in batches:
        subscription.offer(each)
    assert subscription.take(TIMEOUT_SECONDS) == batches
    assert subscription.take(0) == []


def test_a_reader_with_a_full_queue_must_read_the_log(subscription: Subscription) -> None:
    for seq in range(MAX_BATCHES + 10):
        subscription.offer(batch(seq))
    assert subscription.take(TIMEOUT_SECONDS) is None
    assert subscription.take(0) == []
    subscription.offer(batch(1000))
    assert subscription.take(TIMEOUT_SECONDS) == [batch(1000)]


def test_reading_the_log_covers_the_waiting_batches(subscription: Subscription) -> None:
    subscription.offer(batch(1))
    subscription.must_read_log()
    assert subscription.take(TIMEOUT_SECONDS) is None
    assert subscription.take(0) == []


def test_waking_only_ends_the_wait(subscription: Subscription) -> None:
    woken = threading.Thread(target=subscription.wake)
    woken.start()
    assert subscription.take(TIMEOUT_SECONDS) == []
    woken.join()


def test_a_waiting_reader_may_receive_batches_at_once(subscription: Subscription) -> None:
    received: list[Batch] = []
    with waiting(subscription) as taken:
        subscription.receive = received_by(received)
        for seq in (1, 2):
            subscription.offer(batch(seq))
        assert received == [batch(1), batch(2)]
        subscription.wake()
    assert taken == [[]]


def test_a_batch_waits_for_those_before_it(subscription: Subscription) -> None:
    """One batch that the reader cannot receive at once: the next ones must not overtake it."""
    received: list[Batch] = []
    with waiting(subscription) as taken:
        subscription.receive = lambda _: False
        subscription.offer(batch(1))
        subscription.receive = received_by(received)
        subscription.offer(batch(2))
    rest = [] if batch(2) in taken[0] else subscription.take(TIMEOUT_SECONDS)
    assert [*taken[0], *(rest or [])] == [batch(1), batch(2)]
    assert received == []


def test_a_reader_that_does_not_wait_receives_nothing_at_once(subscription: Subscription) -> None:
    received: list[Batch] = []
    subscription.receive = received_by(received)
    subscription.offer(batch(1))
    assert (received, subscription.take(TIMEOUT_SECONDS)) == ([], [batch(1)])


def test_a_confirmed_subscription_says_read_the_log(hub: Hub) -> None:
    with hub.subscribe("job_1") as first:
        assert first.take(TIMEOUT_SECONDS) is None
        with hub.subscribe("job_1") as second:
            assert second.take(TIMEOUT_SECONDS) is None


def test_readers_of_a_job_share_one_channel_and_each_rendered_batch(hub: Hub, redis: Redis) -> None:
    with hub.subscribe("job_1") as first, hub.subscribe("job_1") as second:
        assert (first.take(TIMEOUT_SECONDS), second.take(TIMEOUT_SECONDS)) == (None, None)
        assert redis.pubsub_numsub(keys.events("job_1"))[0][1] == 1
        redis.publish(keys.events("job_1"), '1\n["s",1]')
        (one,), (other,) = first.take(TIMEOUT_SECONDS) or [], second.take(TIMEOUT_SECONDS) or []
        assert one is other


def test_readers_get_batches_of_their_own_job_only(hub: Hub, redis: Redis) -> None:
    with hub.subscribe("job_1") as first, hub.subscribe("job_2") as second:
        assert (first.take(TIMEOUT_SECONDS), second.take(TIMEOUT_SECONDS)) == (None, None)
        redis.publish(keys.events("job_1"), '1\n["s",1]')
        redis.publish(keys.events("job_2"), '2\n["s",1]')
        assert [one.first_seq for one in second.take(TIMEOUT_SECONDS) or []] == [2]
        assert [one.first_seq for one in first.take(TIMEOUT_SECONDS) or []] == [1]


def test_the_last_reader_to_leave_unsubscribes_even_when_it_fails(hub: Hub, redis: Redis) -> None:
    def fail() -> None:
        with hub.subscribe("job_1"), hub.subscribe("job_1"):
            eventually(lambda: redis.pubsub_channels() == [keys.events("job_1")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    eventually(lambda: redis.pubsub_channels() == [])


def test_an_invalid_message_makes_readers_read_the_log(hub: Hub, redis: Redis) -> None:
    with hub.subscribe("job_1") as subscription:
        assert subscription.take(TIMEOUT_SECONDS) is None
        redis.publish(keys.events("job_1"), "garbage")
        assert subscription.take(TIMEOUT_SECONDS) is None
        redis.publish(keys.events("job_1"), '1\n["s",1]')
        assert [one.first_seq for one in subscription.take(TIMEOUT_SECONDS) or []] == [1]


def test_a_reconnect_makes_every_reader_read_the_log(hub: Hub, redis: Redis) -> None:
    with hub.subscribe("job_1") as first, hub.subscribe("job_2") as second:
        assert (first.take(TIMEOUT_SECONDS), second.take(TIMEOUT_SECONDS)) == (None, None)
        redis.client_kill_filter(_type="pubsub")
        assert (first.take(TIMEOUT_SECONDS), second.take(TIMEOUT_SECONDS)) == (None, None)


def test_closing_wakes_every_reader(hub: Hub) -> None:
    with hub.subscribe("job_1") as subscription:
        assert subscription.take(TIMEOUT_SECONDS) is None
        hub.close()
        assert subscription.take(TIMEOUT_SECONDS) == []
        assert hub.is_closing


def test_a_hub_without_redis_waits_for_it() -> None:
    hub = Hub("redis://127.0.0.1:1")
    with hub.subscribe("job_1") as subscription:
        assert subscription.take(0.01) == []
    hub.stop()


def test_the_ended_job_is_loaded_once_for_all_readers() -> None:
    job = cast(Job, object())
    loads = iter([job])
    channel = Channel()
    assert all(channel.final_job(lambda: next(loads)) is job for _ in range(3))
