//! The history: what became of Tasks and Syncs, kept when the objects are gone. `SQLite` in a file, or `PostgreSQL`.
//!
//! Nothing depends on it: what it lacks is written when it is there again, as long as the objects are. Money is whole
//! millionths of a US dollar here, times are microseconds since 1970, so that sums are exact and both databases agree.

mod place;
mod read;
pub mod record;
mod write;

pub use place::{DatabaseUrl, Place};
pub use read::{Asked, By, Cost, MOST, Which};
pub use record::{SyncRecord, TaskRecord};
pub use write::Keep;

use std::{borrow::Cow, time::Duration};

use sqlx::{
    PgPool, SqlSafeStr as _, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// Connections of one process. There is one writer; the rest is for who asks.
const CONNECTIONS: u32 = 4;
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for their end.
const CLOSE: Duration = Duration::from_secs(2);
/// Longest time for anything that is asked of a database.
const WHOLE: Duration = Duration::from_secs(30);

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is none that is known. It is not repeated: there may be a password in it.
    #[error("{0}")]
    Url(String),
    /// The folder of the file cannot be made.
    #[error("cannot make the folder {folder}: {error}")]
    Folder {
        /// The folder.
        folder: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The tables are not those of this release.
    #[error("the tables of the history cannot be brought up to date: {0}")]
    Schema(String),
    /// The database did not answer in time.
    #[error("the database of the history is not reached, or does not answer")]
    Late,
    /// What is in the database was not written by this program.
    #[error("a record of the history cannot be read: {0}")]
    Damaged(serde_json::Error),
    /// Everything else, in the words of the database.
    #[error("the database of the history: {0}")]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            // A pool tries until its time is over, whatever keeps it from connecting.
            sqlx::Error::PoolTimedOut => Self::Late,
            error => Self::Database(error),
        }
    }
}

impl StoreError {
    /// Whether the database refuses what it was given, now and ever: characters that its encoding lacks, say, or a text that
    /// is too long for it.
    pub fn is_refusal(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return matches!(self, Self::Damaged(_)) };
        // Of PostgreSQL: data exceptions, violated constraints, exceeded limits. Of SQLite: what is too big.
        error.code().is_some_and(|code| {
            code == "18" || (code.len() == 5 && ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
        })
    }
}

/// The history. Cheap to clone; nothing is connected before it is used.
#[derive(Clone, Debug)]
pub struct Store(Db);

#[derive(Clone, Debug)]
enum Db {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// The same for whichever database it is: statements are one text for both, and values bind alike.
macro_rules! on {
    ($db:expr, $pool:ident => $work:expr) => {
        match $db {
            $crate::store::Db::Sqlite($pool) => $work,
            $crate::store::Db::Postgres($pool) => $work,
        }
    };
}
use on;

impl Store {
    /// Opens the database at `place`, without a connection yet.
    ///
    /// # Errors
    /// [`StoreError::Url`] and [`StoreError::Folder`].
    pub fn open(place: &Place) -> Result<Self, StoreError> {
        Ok(Self(match place {
            Place::Sqlite(file) => {
                if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                    let failed = |error| StoreError::Folder { folder: folder.display().to_string(), error };
                    std::fs::create_dir_all(folder).map_err(failed)?;
                }
                Self::sqlite(SqliteConnectOptions::new().filename(file).create_if_missing(true))
            }
            Place::Postgres(options) => {
                let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(CONNECT);
                Db::Postgres(pool.connect_lazy_with((**options).clone()))
            }
        }))
    }

    /// The same, to read what is there: a file that does not exist is not made.
    ///
    /// # Errors
    /// [`StoreError::Url`] where there is no such file.
    pub fn open_existing(place: &Place) -> Result<Self, StoreError> {
        match place {
            Place::Sqlite(file) if !file.is_file() => {
                Err(StoreError::Url(format!("there is no file {}", file.display())))
            }
            Place::Sqlite(file) => Ok(Self(Self::sqlite(SqliteConnectOptions::new().filename(file)))),
            Place::Postgres(_) => Self::open(place),
        }
    }

    fn sqlite(options: SqliteConnectOptions) -> Db {
        // Who reads does not wait for the writer; a machine that stops loses the last moment, which is written again.
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(CONNECT)
            // The controller's pod has no disk for temporary files.
            .pragma("temp_store", "memory")
            .optimize_on_close(true, None);
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(CONNECT);
        Db::Sqlite(pool.connect_lazy_with(options))
    }

    /// Whether every replica sees the same records.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Db::Postgres(_))
    }

    /// Makes the tables, or brings them up to date. Several replicas may do so at once.
    ///
    /// # Errors
    /// [`StoreError`] where the database cannot be reached, or its tables are of a newer release.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let migrations = Migrator::with_migrations(migrations());
        in_time(async {
            let done = on!(&self.0, pool => migrations.run(pool).await);
            done.map_err(|error| match error {
                sqlx::migrate::MigrateError::Execute(error) => error.into(),
                other => StoreError::Schema(other.to_string()),
            })
        })
        .await
    }

    /// Ends all connections; one that hangs is left to the operating system.
    pub async fn close(&self) {
        let closed = async { on!(&self.0, pool => pool.close().await) };
        let _ = tokio::time::timeout(CLOSE, closed).await;
    }
}

/// Every change of the tables, in order. One text does for both databases so far.
fn migrations() -> Vec<Migration> {
    let one = |version, what: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(what), MigrationType::Simple, sql.into_sql_str(), false)
    };
    vec![one(1, "tasks and syncs", include_str!("schema/1.sql"))]
}

/// A database that hangs must hold nobody.
async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(WHOLE, work).await.unwrap_or(Err(StoreError::Late))
}
