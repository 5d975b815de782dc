-- The tables of index version 1, as they were made. Never to be changed.
CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value BLOB) WITHOUT ROWID;
CREATE TABLE records (
    turn INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    task_key BLOB NOT NULL,
    own_key BLOB NOT NULL,
    usable INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    manifest BLOB NOT NULL,
    exit_code INTEGER NOT NULL,
    command_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    bound_workspace BLOB,
    bound_home BLOB,
    depth INTEGER NOT NULL,
    output_bytes INTEGER NOT NULL,
    used_ms INTEGER NOT NULL,
    boot TEXT NOT NULL,
    durable INTEGER NOT NULL,
    captured_digest BLOB NOT NULL,
    details_digest BLOB NOT NULL,
    seal BLOB NOT NULL,
    times BLOB NOT NULL,
    argv BLOB NOT NULL,
    captured BLOB
);
CREATE INDEX records_by_task ON records (task_key);
CREATE INDEX records_by_owner ON records (own_key);
CREATE TABLE traces (fingerprint BLOB PRIMARY KEY NOT NULL, bytes BLOB NOT NULL);
CREATE TABLE trees (digest BLOB PRIMARY KEY NOT NULL, bytes BLOB NOT NULL);
CREATE TABLE last (
    workspace BLOB NOT NULL,
    own_key BLOB NOT NULL,
    record_id BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    PRIMARY KEY (workspace, own_key)
) WITHOUT ROWID;
CREATE INDEX last_by_record ON last (record_id);
CREATE TABLE keys (
    workspace BLOB NOT NULL,
    task_key BLOB NOT NULL,
    parts BLOB NOT NULL,
    turn INTEGER NOT NULL,
    PRIMARY KEY (workspace, task_key)
) WITHOUT ROWID;
CREATE TABLE digests (
    dev INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL,
    hashed_at_ns INTEGER NOT NULL,
    PRIMARY KEY (dev, ino)
) WITHOUT ROWID;
