"""All watched conversations of an instance, and the bus channels that go with them."""

from collections.abc import Iterator
from typing import Final

from protocol.errors import ErrorCode, Refused
from server.delivery import frames
from server.delivery.bridge import Bridge, channel_of
from server.delivery.topic import Subscription, Topic, Watcher
from storage.base import Presence

WATCHED_MAX: Final = 100

Key = tuple[str, str]


class Topics:
    """The topics by (tenant, conversation). One exists as long as somebody watches.

    Args:
        bridge: told which channels are wanted; None where there are no other instances.
        presence: told who watches.
    """

    def __init__(self, bridge: Bridge | None, presence: Presence | None = None) -> None:
        self._bridge = bridge
        self._presence = presence
        self._topics: dict[Key, Topic] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def __iter__(self) -> Iterator[tuple[Key, Topic]]:
        return iter(list(self._topics.items()))

    def get(self, key: Key) -> Topic | None:
        """Return the topic, if anybody watches."""
        return self._topics.get(key)

    async def attach(self, watcher: Watcher, conversation_id: str) -> Subscription:
        """Return the watcher's subscription; from here on what is published reaches its topic.

        Raises:
            Refused: ``bad_request`` beyond 100 conversations.
        """
        if conversation_id not in watcher.subscriptions and len(watcher.subscriptions) >= WATCHED_MAX:
            raise Refused(
                ErrorCode.BAD_REQUEST,
                f"A connection watches at most {WATCHED_MAX} conversations.",
                field="conversation_id",
                suggestion="Unsubscribe from one first, or open another connection.",
            )
        key = (watcher.principal.tenant_id, conversation_id)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(*key, self._presence)
            if self._bridge is not None:
                self._bridge.want(channel_of(*key))  # once a topic: ``settle`` leaves once, too
        subscription = topic.add(watcher)
        if self._bridge is not None:
            await self._bridge.heard(channel_of(*key))
        return subscription

    def detach(self, subscription: Subscription) -> None:
        """End a subscription; its client is not told."""
        topic = subscription.topic
        topic.remove(subscription)
        self.settle(topic)

    def dissolve(self, topic: Topic) -> None:
        """The conversation was deleted: tell everybody who knew it, and end their subscriptions."""
        notice = frames.unsubscribed(topic.conversation_id)
        for subscription in list(topic.subscriptions):
            if subscription.epoch is not None:
                topic.remove(subscription)
                subscription.outbox.put(notice)
        if topic.live == 0:
            topic.begin(None, 0)
        self.settle(topic)

    def settle(self, topic: Topic) -> None:
        """Drop a topic that nobody watches any more."""
        key = (topic.tenant_id, topic.conversation_id)
        if not topic.subscriptions and self._topics.get(key) is topic:
            del self._topics[key]
            if self._bridge is not None:
                self._bridge.leave(channel_of(*key))
