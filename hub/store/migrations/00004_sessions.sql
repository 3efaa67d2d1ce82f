-- MQTT sessions: the subscriptions of those who connect with clean session 0, as
-- JSON; and settings of the hub as a whole.

-- +goose Up
CREATE TABLE sessions (
    device        TEXT NOT NULL,
    module        TEXT NOT NULL DEFAULT '',
    subscriptions TEXT NOT NULL,
    PRIMARY KEY (device, module),
    FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL -- JSON
);

-- +goose Down
DROP TABLE settings;
DROP TABLE sessions;
