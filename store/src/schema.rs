//! Opening the index: its tables, its version, and what happens when it is damaged.
//!
//! Lock discipline: `index.lock` is held (flock) while the index is being opened: shared to open one that is there, exclusive
//! to make one or to set a damaged one aside. So nobody opens an index while its files are being moved, and two processes
//! cannot both repair it. The lock is released before the index is used; from then on SQLite's own locks rule.
//!
//! A reader that meets damage later leaves the file `index.damaged`; the next opening checks the whole index, and only if
//! that confirms it, sets the index aside. A process that still uses an index which has been set aside can so at worst cause
//! a check.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};

use crate::blob::unique_name;
use crate::error::StoreError;
use crate::gc::DAY_MS;
use crate::index::meta;
use crate::{disk, format, seam};

/// The version of the tables below, kept in SQLite's `user_version`.
pub const SCHEMA_VERSION: i64 = 2;

/// The oldest version that is brought up to date; see [`MORE_TABLES`].
const OLDEST_VERSION: i64 = 1;

/// How long to wait for another process: longer than any transaction here takes, short enough to give up and run uncached.
pub(crate) const BUSY: Duration = Duration::from_secs(10);

/// How much of the index is mapped instead of read. Address space only; beyond it SQLite reads.
const MAPPED_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// The write-ahead log is moved into the index when it has this many pages (1 MiB): whoever opens it first reads it whole, so
/// it must stay short.
const LOG_PAGES_MAX: i64 = 256;

/// More statements than the store has, so that none is ever prepared twice.
const STATEMENTS_MAX: usize = 64;

const INDEX: &str = "index.sqlite";
const LOCK: &str = "index.lock";
const DAMAGED: &str = "index.damaged";

/// The files that make up an index.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// The tables of version 1. `records` keeps its long columns last: SQLite then reads a head without touching their pages. `captured`
/// is empty when the output is a blob. `turn` tells apart what happened in one millisecond.
const TABLES: &str = "
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
";

/// What version 2 has besides. `uses` holds when a record was last used and how often: a hit then changes a row of a few bytes and not
/// one with all that the command printed; a record without a row there was last used when `records.used_ms` says, so that a program
/// of version 1 which has the index open goes on working. `runs` counts.
const MORE_TABLES: &str = "
CREATE TABLE uses (turn INTEGER PRIMARY KEY NOT NULL, used_ms INTEGER NOT NULL, hits INTEGER NOT NULL);
CREATE TABLE runs (
    workspace BLOB NOT NULL,
    outcome INTEGER NOT NULL,
    reason TEXT NOT NULL,
    runs INTEGER NOT NULL,
    lookup_us INTEGER NOT NULL,
    work_us INTEGER NOT NULL,
    command_ms INTEGER NOT NULL,
    saved_us INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (workspace, outcome, reason)
) WITHOUT ROWID;
";

/// Touches every table and column group, so that a foreign or half-made index is noticed when it is opened.
const PROBES: [&str; 9] = [
    "SELECT name, value FROM meta LIMIT 0",
    "SELECT id, task_key, own_key, usable, seal, captured FROM records LIMIT 0",
    "SELECT fingerprint, bytes FROM traces LIMIT 0",
    "SELECT digest, bytes FROM trees LIMIT 0",
    "SELECT workspace, own_key, record_id, at_ms, turn FROM last LIMIT 0",
    "SELECT workspace, task_key, parts, turn FROM keys LIMIT 0",
    "SELECT dev, ino, size, mtime_ns, ctime_ns, digest, hashed_at_ns FROM digests LIMIT 0",
    "SELECT turn, used_ms, hits FROM uses LIMIT 0",
    "SELECT workspace, outcome, reason, runs, lookup_us, work_us, command_ms, saved_us, last_ms FROM runs LIMIT 0",
];

/// Where the index of the store in `dir` is.
pub(crate) fn index_path(dir: &Path) -> PathBuf {
    dir.join(INDEX)
}

/// All files of the index of the store in `dir`.
pub(crate) fn index_files(dir: &Path) -> [PathBuf; 3] {
    SUFFIXES.map(|suffix| with_suffix(&index_path(dir), suffix))
}

/// What opening can come to besides an error.
enum Outcome {
    Ready(Connection),
    /// There is none, or an empty one: it has to be made, under the exclusive lock. Under the shared one also an index of an earlier
    /// version, which has to be brought up to date.
    Unready,
    Damaged(String),
}

/// Opens the index of the store in `dir`; also says what had to be done about a damaged one.
pub(crate) fn open(dir: &Path) -> Result<(Connection, Option<String>), StoreError> {
    if !exists(&dir.join(DAMAGED))? {
        let _shared = lock(dir, false)?;
        if let Outcome::Ready(index) = open_present(dir, false)? {
            return Ok((index, None));
        }
    }
    let _exclusive = lock(dir, true)?;
    let outcome = match open_present(dir, true)? {
        Outcome::Ready(index) if exists(&dir.join(DAMAGED))? => match flaw(dir, &index)? {
            None => Outcome::Ready(index),
            Some(detail) => Outcome::Damaged(detail),
        },
        outcome => outcome,
    };
    let (index, notice) = match outcome {
        Outcome::Ready(index) => (index, None),
        Outcome::Unready => {
            // What is there was cut to nothing, or its maker died early. Whoever still has it open holds SQLite's lock on it, so it is not filled but
            // replaced; the log goes first, since one without its index would be taken for that of the next.
            for suffix in SUFFIXES.into_iter().rev() {
                let path = with_suffix(&index_path(dir), suffix);
                disk::unlink(&path).map_err(StoreError::disk("remove", &path))?;
            }
            (create(dir)?, None)
        }
        Outcome::Damaged(detail) => {
            let aside = set_aside(dir)?;
            let notice = format!(
                "the cache index was damaged ({detail}) and has been moved to {}; entries made before are forgotten, no files are lost",
                aside.display()
            );
            (create(dir)?, Some(notice))
        }
    };
    let mark = dir.join(DAMAGED);
    disk::unlink(&mark).map_err(StoreError::disk("remove", &mark))?;
    Ok((index, notice))
}

/// Leaves a mark that makes the next opening check the index. Best effort: without it the damage is met again.
pub(crate) fn mark_damaged(dir: &Path) {
    let _ = disk::create_new(&dir.join(DAMAGED));
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    match disk::stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::disk("read the attributes of", path)(error)),
    }
}

fn lock(dir: &Path, exclusive: bool) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let file = disk::open_lock(&path).map_err(StoreError::disk("open", &path))?;
    match disk::lock_within(&file, exclusive, BUSY).map_err(StoreError::disk("lock", &path))? {
        true => Ok(file),
        false => Err(StoreError::Busy { path, waited_s: BUSY.as_secs() }),
    }
}

/// Opens an index that is there and has its tables. With the exclusive lock (`alone`) one of an earlier version gets what it lacks.
fn open_present(dir: &Path, alone: bool) -> Result<Outcome, StoreError> {
    let path = index_path(dir);
    match disk::stat(&path) {
        // A link may lead to a database of somebody else's.
        Ok(facts) if !facts.is_file => return Ok(Outcome::Damaged("it is no file".to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Unready),
        Err(error) => return Err(StoreError::disk("read the attributes of", &path)(error)),
    }
    gate(&path)?;
    let ready = connect(&path, OpenFlags::empty()).and_then(|mut index| {
        let mut version: i64 = index.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if alone && (OLDEST_VERSION..SCHEMA_VERSION).contains(&version) {
            update(&mut index)?;
            version = SCHEMA_VERSION;
        }
        if version == SCHEMA_VERSION {
            for probe in PROBES {
                index.prepare(probe)?;
            }
        }
        Ok((index, version))
    });
    match ready {
        Ok((index, SCHEMA_VERSION)) => Ok(Outcome::Ready(index)),
        Ok((_, version)) if version > SCHEMA_VERSION => Err(StoreError::NewerFormat {
            path,
            found: format!("index version {version}"),
            known: format!("index version {SCHEMA_VERSION}"),
        }),
        Ok((index, 0)) => {
            let tables: Result<i64, _> = index.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
            Ok(match tables {
                Ok(0) => Outcome::Unready,
                Ok(_) => Outcome::Damaged("it holds something else".to_owned()),
                Err(error) => Outcome::Damaged(error.to_string()),
            })
        }
        Ok((_, OLDEST_VERSION..SCHEMA_VERSION)) => Ok(Outcome::Unready),
        Ok((_, version)) => Ok(Outcome::Damaged(format!("its version is {version}"))),
        Err(error) if is_damage(&error) => Ok(Outcome::Damaged(error.to_string())),
        // A table or column that should be there is not: SQLite calls that a mistake in the statement.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::Unknown) => Ok(Outcome::Damaged(error.to_string())),
        Err(error) => Err(convert(&path, error)),
    }
}

/// Makes the tables. The caller holds the exclusive lock.
fn create(dir: &Path) -> Result<Connection, StoreError> {
    let path = index_path(dir);
    // Made here and not by SQLite, so that nobody else can read what commands printed, whatever the umask says.
    disk::create_new(&path).map_err(StoreError::disk("create", &path))?;
    gate(&path)?;
    let make = || -> Result<Connection, rusqlite::Error> {
        let mut index = connect(&path, OpenFlags::SQLITE_OPEN_CREATE)?;
        // Kept in the file, so whoever opens it later need not ask for it.
        index.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        let change = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change.execute_batch(TABLES)?;
        change.execute_batch(MORE_TABLES)?;
        change.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        // Nothing in it is old or much for some time.
        meta::set(&change, meta::DUE_MS, disk::now_ms() + DAY_MS)?;
        change.commit()?;
        Ok(index)
    };
    make().map_err(|error| convert(&path, error))
}

/// Brings an index of version 1 up to date: in one transaction, and without touching what is there. A program that opened it before
/// goes on working with it.
fn update(index: &mut Connection) -> Result<(), rusqlite::Error> {
    let change = index.transaction_with_behavior(TransactionBehavior::Immediate)?;
    change.execute_batch(MORE_TABLES)?;
    change.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    change.commit()
}

/// Passed before the database is opened or made.
fn gate(path: &Path) -> Result<(), StoreError> {
    seam::gate(seam::Place::Store, seam::Step::Index).map_err(StoreError::disk("open", path))
}

fn connect(path: &Path, more: OpenFlags) -> Result<Connection, rusqlite::Error> {
    // One connection behind one lock: SQLite's own mutexes would only cost.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let index = Connection::open_with_flags(path, flags)?;
    index.busy_timeout(BUSY)?;
    index.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // The process that closes last would otherwise wait for the disk, at the end of every hit.
    index.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    index.pragma_update(None, "synchronous", "NORMAL")?;
    index.query_row(&format!("PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}"), [], |_| Ok(()))?;
    index.query_row(&format!("PRAGMA mmap_size = {MAPPED_BYTES_MAX}"), [], |_| Ok(()))?;
    Ok(index)
}

/// Reads the whole index; says what is wrong with it, if anything.
pub(crate) fn flaw(dir: &Path, index: &Connection) -> Result<Option<String>, StoreError> {
    let path = index_path(dir);
    // SQLite reads a cut last page as if zeros followed and calls it sound, but fails when it has to write there.
    let page: i64 = index.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(|error| convert(&path, error))?;
    let size = disk::stat(&path).map_err(StoreError::disk("read the attributes of", &path))?.size;
    if size.checked_rem(page.unsigned_abs()) != Some(0) {
        return Ok(Some("its last page is cut".to_owned()));
    }
    match index.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0)) {
        Ok(answer) if answer == "ok" => Ok(None),
        Ok(answer) => Ok(Some(answer.replace('\n', " "))),
        Err(error) if is_suspect(&error) => Ok(Some(error.to_string())),
        // Locked, or no memory: that says nothing about the index.
        Err(error) => Err(convert(&path, error)),
    }
}

/// A quicker look than [`flaw`]: pages and rows, not whether the indexes agree with them.
pub(crate) fn quick_flaw(dir: &Path, index: &Connection) -> Result<Option<String>, StoreError> {
    match index.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)) {
        Ok(answer) if answer == "ok" => Ok(None),
        Ok(answer) => Ok(Some(answer.replace('\n', " "))),
        Err(error) if is_suspect(&error) => Ok(Some(error.to_string())),
        Err(error) => Err(convert(&index_path(dir), error)),
    }
}

/// Moves the index with its log to quarantine; says where. The caller holds the exclusive lock.
fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let aside = dir.join(format::QUARANTINE).join(unique_name("index"));
    for suffix in SUFFIXES {
        let (from, to) = (with_suffix(&index_path(dir), suffix), with_suffix(&aside, suffix));
        match disk::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::disk("move aside", from)(error));
            }
            _ => {}
        }
    }
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether SQLite says that the file is damaged: it makes no sense, or ends before it should.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            || matches!(error.extended_code, ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS)
    })
}

/// Whether the file may be damaged, so that the next opening should look: also when it could not be read, as with a bad
/// sector.
pub(crate) fn is_suspect(error: &rusqlite::Error) -> bool {
    is_damage(error) || error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure)
}

/// Says an error of the database in the store's words.
pub(crate) fn convert(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let detail = error.to_string();
    if is_damage(&error) {
        return StoreError::DamagedIndex { path, detail };
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Busy { path, waited_s: BUSY.as_secs() }
        }
        _ => StoreError::Index { path, detail },
    }
}
