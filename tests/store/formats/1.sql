-- A file of format 1, as its program left it.
PRAGMA application_id = 1346720324;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE callbacks (
  awaited_id TEXT NOT NULL,
  awaiter_id TEXT NOT NULL,
  PRIMARY KEY (awaited_id, awaiter_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE listeners (
  awaited_id TEXT NOT NULL,
  address    TEXT NOT NULL,
  PRIMARY KEY (awaited_id, address)
) STRICT, WITHOUT ROWID;
CREATE TABLE members (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  name     TEXT NOT NULL,
  address  TEXT NOT NULL,
  anycast  TEXT NOT NULL,
  receives INTEGER NOT NULL
) STRICT;
INSERT INTO "members" VALUES(1,'4eb4be5008ac4f11a27497c5cf871d64','poll://uni@default/4eb4be5008ac4f11a27497c5cf871d64','poll://any@default',0);
CREATE TABLE outbox (
  address    TEXT NOT NULL,
  promise_id TEXT NOT NULL,
  PRIMARY KEY (address, promise_id)
) STRICT, WITHOUT ROWID;
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
INSERT INTO "promises" VALUES('pending','pending',NULL,NULL,NULL,NULL,'{"resonate:target":"poll://any@g"}','poll://any@g',0,1,1,9007199254740992,1795483408857,NULL);
INSERT INTO "promises" VALUES('settled','resolved',NULL,NULL,NULL,'dg==','{}',NULL,0,0,1,9007199254740992,1795483408860,1795483408863);
CREATE TABLE resumes (
  task_id    TEXT NOT NULL,
  awaited_id TEXT NOT NULL,
  PRIMARY KEY (task_id, awaited_id)
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
INSERT INTO "tasks" VALUES('pending','pending',0,'poll://any@g',NULL,NULL,NULL,NULL);
CREATE INDEX promises_due ON promises (timeout_at) WHERE state = 'pending' AND external = 1;
CREATE INDEX promises_old ON promises (settled_at) WHERE head = 1 AND settled_at IS NOT NULL;
CREATE INDEX tasks_due ON tasks (timeout_at) WHERE state IN ('pending', 'acquired') AND timeout_at IS NOT NULL;
CREATE INDEX tasks_parked ON tasks (target) WHERE state = 'pending' AND timeout_at IS NULL;
CREATE INDEX tasks_of_member ON tasks (member) WHERE state IN ('pending', 'acquired') AND member IS NOT NULL;
CREATE INDEX callbacks_of_awaiter ON callbacks (awaiter_id);
CREATE INDEX schedules_due ON schedules (next_run_at);
COMMIT;
