-- Twins, one for each identity; sections are JSON in key order, as text, because
-- the bytes of scalars are part of the contract.

-- +goose Up
CREATE TABLE twins (
    device           TEXT   NOT NULL,
    module           TEXT   NOT NULL DEFAULT '',
    etag             BIGINT NOT NULL,
    version          BIGINT NOT NULL,
    model_id         TEXT   NOT NULL DEFAULT '',
    tags             TEXT   NOT NULL,
    desired          TEXT   NOT NULL,
    desired_meta     TEXT   NOT NULL,
    desired_version  BIGINT NOT NULL,
    reported         TEXT   NOT NULL,
    reported_meta    TEXT   NOT NULL,
    reported_version BIGINT NOT NULL,
    PRIMARY KEY (device, module),
    FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);

-- +goose Down
DROP TABLE twins;
