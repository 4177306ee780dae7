"""JetStream's error codes that this code tells apart: `err_code` in an answer of the JetStream API or in a PubAck.

The names follow nats-server's own (`server/errors.json`, 2.15.1). A code is the server's promise; descriptions are not.
"""

from typing import Final

NO_PEERS: Final = 10005
"""JSClusterNoPeersErr: too few nodes to place a stream on; also while a cluster that was just started finds itself."""

CONSUMER_NAME_EXISTS: Final = 10013
"""JSConsumerNameExistErr."""

NO_RESOURCES: Final = 10023
"""JSInsufficientResourcesErr, with status 503: the streams of the server have taken all of its `max_file_store` or
`max_memory_store`, and a message is not stored."""

NO_MEMORY: Final = 10028
"""JSMemoryResourcesExceededErr: the server's `max_memory_store` is less than what its streams may take in all."""

NO_STORAGE: Final = 10047
"""JSStorageResourcesExceededErr: the same of `max_file_store`."""

MESSAGE_TOO_LARGE: Final = 10054
"""JSStreamMessageExceedsMaximumErr: more than the stream's `max_msg_size`."""

STREAM_NAME_EXISTS: Final = 10058
"""JSStreamNameExistErr: with a different configuration."""

WRONG_LAST_SEQUENCE: Final = 10071
"""JSStreamWrongLastSequenceErr: the subject's last message is not the one that `Nats-Expected-Last-Subject-Sequence`
names. Its sequence stands in the description only."""

REPLICAS_NOT_SUPPORTED: Final = 10074
"""JSStreamReplicasNotSupportedErr: several replicas on a server without a cluster."""

STORE_FAILED: Final = 10077
"""JSStreamStoreFailed, with status 503. Of a stream that discards new messages, as `LLM_REQUESTS`: it is full, most
often because the subject holds as many messages as it may (`max_msgs_per_subject`, a tenant's queue limit)."""

HEADERS_TOO_LARGE: Final = 10097
"""JSStreamHeaderExceedsMaximumErr: more than 64 KiB of headers."""

CONSUMER_IS_ACTIVE: Final = 10105
"""JSConsumerExistingActiveErr: the consumer exists and is in use."""

CONSUMER_EXISTS: Final = 10148
"""JSConsumerAlreadyExists: with a different configuration."""

WRONG_LAST_SEQUENCE_CONSTANT: Final = 10164
"""JSStreamWrongLastSequenceConstantErr: as 10071, from a cluster whose leader does not know the sequence."""

TOO_MANY_REQUESTS: Final = 10167
"""JSStreamTooManyRequests, with status 429: more messages have come than the stream has stored yet (`max_buffered_msgs`
of the server). Whoever tries again soon finds room."""

ALREADY_EXISTS: Final = frozenset({STREAM_NAME_EXISTS, CONSUMER_NAME_EXISTS, CONSUMER_IS_ACTIVE, CONSUMER_EXISTS})
"""Somebody else has created the stream or consumer in the meantime."""

LOST_COMPARE_AND_SET: Final = frozenset({WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_CONSTANT})
"""The entry has changed since it was read."""

NO_ROOM: Final = frozenset({STORE_FAILED, NO_RESOURCES})
"""A message is not stored because its stream, or the server, is full."""
