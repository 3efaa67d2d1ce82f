-- Devices (module = '') and modules, with their shared access policies. Flags are
-- 0 or 1, times are microseconds since 1970 UTC with 0 for never, keys are sealed (base64).

-- +goose Up
CREATE TABLE identities (
    device             TEXT     NOT NULL,
    module             TEXT     NOT NULL DEFAULT '',
    generation         TEXT     NOT NULL,
    etag               BIGINT   NOT NULL,
    enabled            SMALLINT NOT NULL DEFAULT 1,
    status_reason      TEXT,
    status_updated     BIGINT   NOT NULL DEFAULT 0,
    auth_type          TEXT     NOT NULL,
    primary_key        TEXT,
    secondary_key      TEXT,
    primary_thumb      TEXT     NOT NULL DEFAULT '',
    secondary_thumb    TEXT     NOT NULL DEFAULT '',
    edge               SMALLINT NOT NULL DEFAULT 0,
    scope              TEXT     NOT NULL DEFAULT '',
    parent_scope       TEXT     NOT NULL DEFAULT '',
    managed_by         TEXT,
    created            BIGINT   NOT NULL,
    connected          SMALLINT NOT NULL DEFAULT 0,
    connection_updated BIGINT   NOT NULL DEFAULT 0,
    last_activity      BIGINT   NOT NULL DEFAULT 0,
    PRIMARY KEY (device, module)
);
CREATE INDEX identities_scope ON identities (scope) WHERE scope <> '';
CREATE INDEX identities_parent ON identities (parent_scope) WHERE parent_scope <> '';
CREATE INDEX identities_connected ON identities (connected) WHERE connected = 1;

CREATE TABLE policies (
    name          TEXT   NOT NULL PRIMARY KEY,
    primary_key   TEXT   NOT NULL,
    secondary_key TEXT   NOT NULL,
    rights        TEXT   NOT NULL, -- names, comma-separated
    created       BIGINT NOT NULL
);

-- +goose Down
DROP TABLE policies;
DROP TABLE identities;
