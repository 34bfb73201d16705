-- The embedded Resonate store, version 1. Times are milliseconds since the epoch.
-- Names and meanings follow Resonate on Postgres; what differs is said here.

-- One row per promise. `external`: somebody outside drives it (it has a target, is a timer, or says so), so
-- its timeout is enforced and it can be awaited. `head`: the first of its tree, by which trees are collected.
CREATE TABLE promises (
  id            TEXT PRIMARY KEY,
  state         TEXT NOT NULL,
  param_headers TEXT,
  param_data    TEXT,
  value_headers TEXT,
  value_data    TEXT,
  tags          TEXT NOT NULL,
  target        TEXT,
  timer         INTEGER NOT NULL,
  external      INTEGER NOT NULL,
  head          INTEGER NOT NULL,
  timeout_at    INTEGER NOT NULL,
  created_at    INTEGER NOT NULL,
  settled_at    INTEGER
) STRICT;
CREATE INDEX promises_due ON promises (timeout_at) WHERE state = 'pending' AND external = 1;
CREATE INDEX promises_old ON promises (settled_at) WHERE head = 1 AND settled_at IS NOT NULL;

-- One row per promise with a target. `member` is who holds it (acquired), held it last (suspended) or was
-- offered it (pending). A pending task without a `timeout_at` waits for a member that can take it.
CREATE TABLE tasks (
  id         TEXT PRIMARY KEY,
  state      TEXT NOT NULL,
  version    INTEGER NOT NULL,
  target     TEXT NOT NULL,
  ttl        INTEGER,
  pid        TEXT,
  member     INTEGER,
  timeout_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_due ON tasks (timeout_at) WHERE state IN ('pending', 'acquired') AND timeout_at IS NOT NULL;
CREATE INDEX tasks_parked ON tasks (target) WHERE state = 'pending' AND timeout_at IS NULL;
CREATE INDEX tasks_of_member ON tasks (member) WHERE state IN ('pending', 'acquired') AND member IS NOT NULL;

-- What settled since a task was last acquired.
CREATE TABLE resumes (
  task_id    TEXT NOT NULL,
  awaited_id TEXT NOT NULL,
  PRIMARY KEY (task_id, awaited_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE callbacks (
  awaited_id TEXT NOT NULL,
  awaiter_id TEXT NOT NULL,
  PRIMARY KEY (awaited_id, awaiter_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX callbacks_of_awaiter ON callbacks (awaiter_id);

CREATE TABLE listeners (
  awaited_id TEXT NOT NULL,
  address    TEXT NOT NULL,
  PRIMARY KEY (awaited_id, address)
) STRICT, WITHOUT ROWID;

CREATE TABLE schedules (
  id              TEXT PRIMARY KEY,
  cron            TEXT NOT NULL,
  promise_id      TEXT NOT NULL,
  promise_timeout INTEGER NOT NULL,
  param_headers   TEXT,
  param_data      TEXT,
  tags            TEXT NOT NULL,
  created_at      INTEGER NOT NULL,
  next_run_at     INTEGER NOT NULL,
  last_run_at     INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX schedules_due ON schedules (next_run_at);

-- The processes that have the file open. A row outlives a killed process until another sees its lock free.
-- `name`: of its lock and socket in the folder beside the file. `receives`: 1 work and messages, 2 messages, 0 neither.
CREATE TABLE members (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  name     TEXT NOT NULL,
  address  TEXT NOT NULL,
  anycast  TEXT NOT NULL,
  receives INTEGER NOT NULL
) STRICT;

-- Settled promises whose listener is another process, until it has fetched them.
CREATE TABLE outbox (
  address    TEXT NOT NULL,
  promise_id TEXT NOT NULL,
  PRIMARY KEY (address, promise_id)
) STRICT, WITHOUT ROWID;
