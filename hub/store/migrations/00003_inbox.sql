-- Cloud-to-device messages that wait for their devices, and feedback on those that
-- left. Times are microseconds since 1970 UTC. The counter numbers messages and
-- feedback of all devices, so that a number never comes again, not even for a device
-- that was deleted and made anew.

-- +goose Up
CREATE TABLE inbox (
    sequence   BIGINT   NOT NULL PRIMARY KEY,
    device     TEXT     NOT NULL,
    module     TEXT     NOT NULL DEFAULT '',
    generation TEXT     NOT NULL,
    message_id TEXT     NOT NULL,
    ack        TEXT     NOT NULL,
    enqueued   BIGINT   NOT NULL,
    expires    BIGINT   NOT NULL,
    deliveries SMALLINT NOT NULL DEFAULT 0, -- that were abandoned
    content    BYTEA    NOT NULL,           -- the message in its stored form
    FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE INDEX inbox_device ON inbox (device, module);

CREATE TABLE inbox_feedback (
    id         BIGINT NOT NULL PRIMARY KEY,
    device     TEXT   NOT NULL,
    module     TEXT   NOT NULL DEFAULT '',
    generation TEXT   NOT NULL,
    message_id TEXT   NOT NULL,
    enqueued   BIGINT NOT NULL, -- of the message
    status     TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE INDEX inbox_feedback_device ON inbox_feedback (device, module);

CREATE TABLE inbox_counter (
    one   SMALLINT NOT NULL PRIMARY KEY,
    value BIGINT   NOT NULL
);
INSERT INTO inbox_counter (one, value) VALUES (1, 0);

-- +goose Down
DROP TABLE inbox_counter;
DROP TABLE inbox_feedback;
DROP TABLE inbox;
