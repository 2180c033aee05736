//! The history against both databases: `SQLite` in a file, and a real `PostgreSQL` server.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pilothouse::store::{Asked, By, DatabaseUrl, Keep, Store, StoreError, SyncRecord, TaskRecord, Which};

use crate::common::postgres::Postgres;

/// A database of either kind, empty.
struct Database {
    store: Store,
    url: String,
    _postgres: Option<Postgres>,
    folder: tempfile::TempDir,
}

fn open(url: &str, folder: &tempfile::TempDir) -> Store {
    Store::open(&DatabaseUrl::from(url.to_owned()).place(folder.path()).unwrap().unwrap()).unwrap()
}

impl Database {
    async fn of(url: &str, postgres: Option<Postgres>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(url, &folder);
        store.prepare().await.unwrap();
        Self { store, url: url.to_owned(), _postgres: postgres, folder }
    }

    /// Both, or one where there is no PostgreSQL and that is allowed.
    async fn both() -> Vec<Self> {
        let mut all = vec![Self::of("", None).await];
        if let Some(postgres) = Postgres::start() {
            let url = postgres.url();
            all.push(Self::of(&url, Some(postgres)).await);
        }
        all
    }
}

fn at(hour: i64) -> Timestamp {
    Timestamp::from_second(1_760_000_400 + hour * 3600).unwrap()
}

fn task(uid: &str, namespace: &str, agent: &str, crontask: &str, hour: i64, cost: &str) -> TaskRecord {
    TaskRecord {
        uid: uid.into(),
        namespace: namespace.into(),
        name: format!("task-{uid}"),
        agent: agent.into(),
        crontask: crontask.into(),
        phase: "Completed".into(),
        reason: "Completed".into(),
        started: Some(at(hour) - SignedDuration::from_secs(30)),
        ended: at(hour),
        cost: cost.into(),
        tokens: 100,
        ..TaskRecord::default()
    }
}

fn asked(which: Which, namespace: &str, name: &str) -> Asked {
    Asked { which, namespace: namespace.into(), name: name.into(), limit: 100 }
}

#[tokio::test]
async fn what_is_put_in_comes_out_once() {
    for database in Database::both().await {
        let store = &database.store;
        let mut whole = task("u1", "team", "coder", "nightly", 0, "0.020000");
        whole.detail.log_tail = Some("an end with \0 and ü and 'quotes'; --".into());
        whole.detail.revisions = vec!["main@1a2b3c4".into()];
        whole.detail.content.insert("skills/team".into(), "0123".into());
        let never = TaskRecord { started: None, agent: String::new(), ..task("u2", "team", "", "", 1, "0.000000") };
        assert_eq!(store.put(&[whole.clone(), never.clone()], &[]).await.unwrap(), 2, "{}", database.url);
        // The same again, and the same uid with something else.
        let again = TaskRecord { reason: "Other".into(), ..whole.clone() };
        assert_eq!(store.put(&[again, never.clone()], &[]).await.unwrap(), 0, "{}", database.url);
        // What a name holds later is another Task.
        let later = TaskRecord { name: "task-u1".into(), ..task("u3", "team", "coder", "", 2, "0.000001") };
        store.put(std::slice::from_ref(&later), &[]).await.unwrap();

        assert_eq!(store.tasks(&asked(Which::Task, "team", "task-u1")).await.unwrap(), [later.clone(), whole.clone()]);
        assert_eq!(store.tasks(&asked(Which::Task, "team", "")).await.unwrap(), [later.clone(), never, whole.clone()]);
        assert_eq!(store.tasks(&asked(Which::Crontask, "team", "nightly")).await.unwrap(), [whole.clone()]);
        assert_eq!(store.tasks(&asked(Which::Agent, "team", "coder")).await.unwrap(), [later, whole]);
        assert!(store.tasks(&asked(Which::Task, "other", "task-u1")).await.unwrap().is_empty());
        let hostile = asked(Which::Task, "team' OR '1'='1", "");
        assert!(store.tasks(&hostile).await.unwrap().is_empty());
        let few = Asked { limit: 1, ..asked(Which::Task, "", "") };
        assert_eq!(store.tasks(&few).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_sync_tells_what_it_tried() {
    let tried = |revision: &str, result: &str, hour: i64| SyncRecord {
        uid: "s1".into(),
        namespace: "team".into(),
        name: "all".into(),
        revision: revision.into(),
        result: result.into(),
        applied: at(hour),
        digest: None,
        message: None,
    };
    for database in Database::both().await {
        let store = &database.store;
        store.put(&[], &[tried("main@1", "HealthCheckFailed", 0), tried("main@1", "Applied", 1)]).await.unwrap();
        // The digest is known later.
        let known = SyncRecord { digest: Some("sha256:1".into()), ..tried("main@1", "Applied", 1) };
        store.put(&[], std::slice::from_ref(&known)).await.unwrap();
        let found = store.syncs(&asked(Which::Sync, "team", "all")).await.unwrap();
        assert_eq!(found, [known, tried("main@1", "HealthCheckFailed", 0)], "{}", database.url);
        assert!(store.syncs(&asked(Which::Sync, "other", "all")).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn costs_are_summed_exactly() {
    for database in Database::both().await {
        let store = &database.store;
        let mut all: Vec<_> =
            (0..1000).map(|n| task(&format!("a{n}"), "team", "coder", "", -n / 100, "0.000001")).collect();
        all.push(task("b", "team", "reviewer", "nightly", -30, "12.500000"));
        all.push(task("c", "other", "coder", "nightly", -31, "999999.999999"));
        all.push(task("old", "team", "coder", "", -500, "1.000000"));
        store.put(&all, &[]).await.unwrap();
        let rows = |by, namespace: &'static str| async move {
            let rows = store.cost(by, namespace, at(-48)).await.unwrap();
            rows.into_iter().map(|r| (r.namespace, r.name, r.tasks, r.cost, r.tokens)).collect::<Vec<_>>()
        };
        let row = |namespace: &str, name: &str, tasks, cost: &str| {
            (namespace.to_owned(), name.to_owned(), tasks, cost.to_owned(), tasks * 100)
        };
        assert_eq!(
            rows(By::Agent, "").await,
            [
                row("other", "coder", 1, "999999.999999"),
                row("team", "reviewer", 1, "12.500000"),
                row("team", "coder", 1000, "0.001000"),
            ],
            "{}",
            database.url
        );
        assert_eq!(
            rows(By::Crontask, "team").await,
            [row("team", "nightly", 1, "12.500000"), row("team", "", 1000, "0.001000")]
        );
        // at(0) is 09:00 UTC of the 9th.
        let days = rows(By::Day, "team").await;
        let names: Vec<_> = days.iter().map(|(_, day, ..)| day.as_str()).collect();
        assert_eq!(names, ["2025-10-09", "2025-10-08"], "{days:?}");
        assert_eq!(days.iter().map(|d| d.2).sum::<i64>(), 1001);
    }
}

#[tokio::test]
async fn what_is_old_or_too_much_goes() {
    for database in Database::both().await {
        let store = &database.store;
        let all: Vec<_> = (0..100).map(|n| task(&format!("{n:03}"), "team", "coder", "", -n, "0.010000")).collect();
        let tried = |n: i64| SyncRecord {
            uid: "s1".into(),
            namespace: "team".into(),
            name: "all".into(),
            revision: format!("main@{n}"),
            result: "Applied".into(),
            applied: at(-n),
            digest: None,
            message: None,
        };
        store.put(&all, &(0..100).map(tried).collect::<Vec<_>>()).await.unwrap();
        let keep = |hours, records| Keep { age: Duration::from_hours(hours), records };
        let left = || async {
            let tasks = store.tasks(&asked(Which::Task, "", "")).await.unwrap();
            let syncs = store.syncs(&asked(Which::Sync, "", "")).await.unwrap();
            (tasks.len(), syncs.len(), tasks.last().unwrap().uid.clone())
        };
        assert_eq!(store.trim(keep(1000, 1000), at(0)).await.unwrap(), 0, "{}", database.url);
        assert_eq!(store.trim(keep(79, 1000), at(0)).await.unwrap(), 40);
        assert_eq!(left().await, (80, 80, "079".into()));
        assert_eq!(store.trim(keep(1000, 30), at(0)).await.unwrap(), 100);
        assert_eq!(left().await, (30, 30, "029".into()), "the newest stay");
    }
}

/// Replicas that start together make the tables once, and see the same.
#[tokio::test]
async fn tables_are_made_once_by_whoever_comes() {
    let Some(postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<Store> = (0..4).map(|_| open(&postgres.url(), &folder)).collect();
    let prepared = futures::future::join_all(all.iter().map(Store::prepare)).await;
    assert!(prepared.iter().all(Result::is_ok), "{prepared:?}");
    all[0].put(&[task("u1", "team", "coder", "", 0, "0.010000")], &[]).await.unwrap();
    assert_eq!(all[3].tasks(&asked(Which::Task, "team", "")).await.unwrap().len(), 1);
    assert!(all[0].is_shared());
    for store in all {
        store.close().await;
    }
}

/// A file is there again after a restart; a folder that is not there is made.
#[tokio::test]
async fn a_file_outlives_its_process() {
    let database = Database::of("", None).await;
    database.store.put(&[task("u1", "team", "coder", "", 0, "0.010000")], &[]).await.unwrap();
    database.store.close().await;
    let again = open("", &database.folder);
    again.prepare().await.unwrap();
    assert_eq!(again.tasks(&asked(Which::Task, "team", "")).await.unwrap().len(), 1);
    assert!(!again.is_shared());
    let place = DatabaseUrl::default().place("/nowhere".as_ref()).unwrap().unwrap();
    assert!(matches!(Store::open_existing(&place), Err(StoreError::Url(text)) if text.contains("/nowhere")));
}

#[tokio::test]
async fn a_database_that_goes_is_an_error_and_comes_back_by_itself() {
    let Some(mut postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = open(&postgres.url(), &folder);
    store.prepare().await.unwrap();
    postgres.stop();
    let error = store.put(&[task("u1", "team", "coder", "", 0, "0.010000")], &[]).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("geh"), "{error:?}");
    postgres.go_on();
    assert_eq!(store.put(&[task("u1", "team", "coder", "", 0, "0.010000")], &[]).await.unwrap(), 1);

    // Wrong credentials, and nobody there.
    for wrong in [postgres.url().replace("geh", "other"), "postgres://history:geheim@127.0.0.1:1/x".into()] {
        let error = open(&wrong, &folder).prepare().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("other%3A") && !text.contains("geheim"), "{text}");
    }
}

/// The server is believed by its certificate alone, where the URL says so.
#[tokio::test]
async fn tls_is_verified() {
    let Some(mut postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    postgres.use_tls(&made.cert.pem(), &made.signing_key.serialize_pem());
    postgres.stop();
    postgres.go_on();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, made.cert.pem()).unwrap();
    let url = postgres.url();
    let good = open(&format!("{url}?sslmode=verify-full&sslrootcert={}", authority.display()), &folder);
    good.prepare().await.unwrap();
    let stranger = open(&format!("{url}?sslmode=verify-full"), &folder);
    assert!(matches!(stranger.prepare().await, Err(StoreError::Database(_) | StoreError::Late)));
}

/// What a database holds that another release made is left alone.
#[tokio::test]
async fn tables_of_a_newer_release_are_refused() {
    for database in Database::both().await {
        let statement = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                         VALUES (99, 'later', TRUE, $1, 0)";
        if database.url.is_empty() {
            let file = database.folder.path().join("history/history.db");
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
            let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
            sqlx::query(statement).bind(vec![0_u8]).execute(&pool).await.unwrap();
        } else {
            let pool = sqlx::PgPool::connect(&database.url).await.unwrap();
            sqlx::query(statement).bind(vec![0_u8]).execute(&pool).await.unwrap();
        }
        let error = database.store.prepare().await.unwrap_err();
        assert!(matches!(&error, StoreError::Schema(text) if text.contains("99")), "{}: {error:?}", database.url);
    }
}

/// One record that a database cannot hold, here for the characters of its encoding, is told from a database that is away.
#[tokio::test]
async fn what_a_database_refuses_is_told_from_one_that_is_away() {
    let Some(mut postgres) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlx::PgPool::connect(&postgres.url()).await.unwrap();
    sqlx::query("CREATE DATABASE old ENCODING 'LATIN1' TEMPLATE template0").execute(&pool).await.unwrap();
    let store = open(&postgres.url().replace("/postgres", "/old"), &folder);
    store.prepare().await.unwrap();
    let (mut good, mut bad) = (task("u1", "team", "a", "", 0, "0"), task("u2", "team", "a", "", 0, "0"));
    good.detail.result = Some("\u{fc}".into());
    bad.detail.result = Some("\u{2713}".into());
    let error = store.put(&[good.clone(), bad], &[]).await.unwrap_err();
    assert!(error.is_refusal(), "{error:?}");
    assert_eq!(store.put(std::slice::from_ref(&good), &[]).await.unwrap(), 1, "the other one was not put in alone");
    postgres.stop();
    let error = store.put(&[good], &[]).await.unwrap_err();
    assert!(!error.is_refusal(), "{error:?}");
}
