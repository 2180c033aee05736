//! Where the history is.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use sqlx::postgres::PgConnectOptions;

use super::StoreError;

/// The file, below the controller's data folder, where no database is named.
const FILE: &str = "history/history.db";

/// The URL of a database, which may hold a password: it is shown nowhere.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "DatabaseUrl()" } else { "DatabaseUrl(…)" })
    }
}

/// Where the history is.
#[derive(Clone)]
pub enum Place {
    /// A file.
    Sqlite(PathBuf),
    /// A PostgreSQL server.
    Postgres(Box<PgConnectOptions>),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Without user and password.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "SQLite, {}", file.display()),
            Self::Postgres(options) => {
                let database = options.get_database().unwrap_or_else(|| options.get_username());
                write!(f, "PostgreSQL, {database} at {}:{}", options.get_host(), options.get_port())
            }
        }
    }
}

impl DatabaseUrl {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.0.trim().is_empty()
    }

    /// Reads the URL: `postgres://…`, `sqlite:FILE`, nothing for a file below `data`; `None` for `none`.
    ///
    /// # Errors
    /// [`StoreError::Url`], which does not repeat it.
    pub fn place(&self, data: &Path) -> Result<Option<Place>, StoreError> {
        let refused = |text: &str| Err(StoreError::Url(text.to_owned()));
        match self.0.trim() {
            "" => Ok(Some(Place::Sqlite(data.join(FILE)))),
            "none" => Ok(None),
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                match PgConnectOptions::from_str(url) {
                    Ok(options) => Ok(Some(Place::Postgres(Box::new(options.application_name("pilothouse"))))),
                    Err(_) => refused(
                        "the URL of the history's database is not a PostgreSQL URL; it looks like \
                         postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full, with special characters of \
                         the password as %XX",
                    ),
                }
            }
            url => match url.strip_prefix("sqlite:") {
                Some(file) if !file.trim_start_matches('/').is_empty() && !file.contains('?') => {
                    Ok(Some(Place::Sqlite(file.strip_prefix("//").unwrap_or(file).into())))
                }
                _ => refused(
                    "the URL of the history's database begins with none of postgres://, postgresql:// and sqlite: \
                     (a file); none turns the history off",
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let data = Path::new("/data");
        for (url, place) in [
            ("", Some("SQLite, /data/history/history.db")),
            ("none", None),
            ("sqlite:/a/b.db", Some("SQLite, /a/b.db")),
            ("sqlite:///a/b.db", Some("SQLite, /a/b.db")),
            ("sqlite:b.db", Some("SQLite, b.db")),
            ("postgres://u:geheim@db.team.svc/hist", Some("PostgreSQL, hist at db.team.svc:5432")),
            ("postgresql://u:geheim@db:6432/hist?sslmode=require\n", Some("PostgreSQL, hist at db:6432")),
        ] {
            let found = DatabaseUrl::from(url.to_owned()).place(data).unwrap();
            assert_eq!(found.map(|p| p.to_string()).as_deref(), place, "{url}");
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        for url in [
            "postgres://u:geheim@db/hist",
            "mysql://u:geheim@db/hist",
            "postgres://u:geheim@db:port/hist",
            "postgres://u:geheim@[db/hist",
            "sqlite:?geheim",
            "sqlite:",
        ] {
            let url = DatabaseUrl::from(url.to_owned());
            let shown = match url.place(Path::new("/data")) {
                Ok(place) => format!("{place:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!format!("{url:?}{shown}").contains("geheim"), "{shown}");
        }
    }
}
