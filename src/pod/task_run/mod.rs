//! `pilothouse task-run`: takes one Task to an agent's server, follows it to its end, and says what came of it.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | completed |
//! | 2 | a file that the pod should have is not there |
//! | 10 | the agent or its model failed |
//! | 20 | the time was up; the session was aborted |
//! | 30 | somebody stopped it; the session was aborted |
//! | 40 | the agent's server was not reached for too long, or forgot the session |
//!
//! The answer's text goes to stdout as it comes. The last words are JSON in the container's termination message:
//! `{reason, message, session{id, title, summary}}`. It may be started again at any point: the session is found by its
//! title, and a prompt that is in it is not sent twice.

mod ending;
mod follow;
mod print;

pub use ending::{Ending, Outcome};

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tokio::time::{Instant, sleep};

use super::{
    opencode::{Client, Error, Prompt, Rule, Session},
    sidecar::auth,
};

/// A server that is not reached for longer than this is given up.
const PATIENCE: Duration = Duration::from_mins(5);
const RETRY: Duration = Duration::from_secs(1);
/// After a prompt whose answer was lost: how long until it would show in the session.
const SETTLE: Duration = Duration::from_secs(5);
/// For the abort and the last look at the session.
const GOODBYE: Duration = Duration::from_secs(10);
/// Nobody is there to answer: what would ask a person is denied.
const DENIED: [Rule; 3] = [Rule::deny("question"), Rule::deny("plan_enter"), Rule::deny("plan_exit")];

/// Flags of `pilothouse task-run`; in a pod all come from the environment.
#[derive(Args, Clone, Debug)]
pub struct TaskRunArgs {
    /// Address of the agent's server
    #[arg(long, env = "PILOTHOUSE_AGENT_URL", value_name = "http://HOST:PORT")]
    pub url: String,
    /// Folder with `username` and `password` (a mounted Secret)
    #[arg(long, env = "PILOTHOUSE_AUTH_DIR", default_value = "/pilothouse/auth", value_name = "DIR")]
    pub auth_dir: PathBuf,
    /// File with the prompt
    #[arg(long, env = "PILOTHOUSE_PROMPT_FILE", value_name = "FILE")]
    pub prompt_file: PathBuf,
    /// Title of the session; the session is found by it
    #[arg(long, env = "PILOTHOUSE_SESSION_TITLE", value_name = "TITLE")]
    pub title: String,
    /// Seconds until the session is aborted; 0 for no limit
    #[arg(long, env = "PILOTHOUSE_TASK_TIMEOUT_SECONDS", default_value_t = 0, value_name = "S")]
    pub timeout_seconds: u64,
    /// Agent of opencode to use instead of its default
    #[arg(long, env = "PILOTHOUSE_OPENCODE_AGENT", value_name = "NAME")]
    pub agent: Option<String>,
    /// Where the last words go
    #[arg(long, env = "PILOTHOUSE_TERMINATION_LOG", default_value = "/dev/termination-log", value_name = "FILE")]
    pub termination_log: PathBuf,
}

/// Runs to the end, until SIGTERM or SIGINT. Returns the exit code.
pub async fn run(args: &TaskRunArgs) -> u8 {
    let ending = attend(args, &mut std::io::stdout(), super::terminated()).await;
    if let Err(error) = ending.write(&args.termination_log) {
        tracing::warn!(%error, file = %args.termination_log.display(), "cannot leave the last words");
    }
    if ending.outcome == Outcome::Completed {
        tracing::info!("completed");
    } else {
        tracing::error!(reason = ending.outcome.reason(), "{}", ending.message);
    }
    ending.outcome.exit_code()
}

/// Takes the Task to the server and follows it; `stop` aborts it. The answer's text goes to `out`.
pub async fn attend(args: &TaskRunArgs, out: &mut (impl Write + Send), stop: impl Future<Output = ()>) -> Ending {
    let (client, prompt) = match prepare(args) {
        Ok(prepared) => prepared,
        Err(message) => return Ending::new(Outcome::Misconfigured, message),
    };
    let mut session = None;
    let limit = async {
        match args.timeout_seconds {
            0 => std::future::pending().await,
            seconds => sleep(Duration::from_secs(seconds)).await,
        }
    };
    let mut ending = tokio::select! {
        ending = work(&client, args, &prompt, &mut session, out) => ending,
        () = stop => Ending::new(Outcome::Aborted, "the Task was stopped"),
        () = limit => Ending::new(Outcome::Timeout, "the Task took longer than its timeout"),
    };
    if let Some(session) = session {
        let closing = close(&client, &mut ending, session);
        let _ = tokio::time::timeout(GOODBYE, closing).await; // what is not known by then stays unknown
    }
    ending
}

fn prepare(args: &TaskRunArgs) -> Result<(Client, Prompt), String> {
    let credentials = auth::read_secret(&args.auth_dir).map_err(|e| format!("cannot read the password: {e}"))?;
    let client = Client::new(&args.url, Some(&credentials)).map_err(|e| e.to_string())?;
    let mut prompt = Prompt::text(read(&args.prompt_file)?);
    prompt.agent.clone_from(&args.agent);
    Ok((client, prompt))
}

fn read(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read the prompt {}: {e}", file.display()))?;
    if text.trim().is_empty() { Err(format!("the prompt {} is empty", file.display())) } else { Ok(text) }
}

async fn work(
    client: &Client,
    args: &TaskRunArgs,
    prompt: &Prompt,
    session: &mut Option<Session>,
    out: &mut (impl Write + Send),
) -> Ending {
    let found = match open(client, args).await {
        Ok(found) => found,
        Err(error) => return Ending::from_error(&error),
    };
    tracing::info!(session = found.id, title = found.title, "the session is open");
    *session = Some(found.clone());
    // Following begins before the prompt is sent, so that its first word is not missed.
    let mut follow = follow::Follow::new(client, &found.id);
    if let Err(error) = follow.until_connected().await {
        return Ending::from_error(&error);
    }
    match send(client, &found.id, prompt).await {
        Ok(()) => follow.finish(out).await,
        Err(error) => Ending::from_error(&error),
    }
}

/// The session of this title; made where there is none. A lost answer may have made one, so each attempt looks first.
async fn open(client: &Client, args: &TaskRunArgs) -> Result<Session, Error> {
    let patience = Patience::begin();
    loop {
        match find_or_create(client, args).await {
            Err(error) => patience.bear(error).await?,
            found => return found,
        }
    }
}

async fn find_or_create(client: &Client, args: &TaskRunArgs) -> Result<Session, Error> {
    match client.find_session(&args.title).await? {
        Some(session) => Ok(session),
        None => client.create_session(&args.title, args.agent.as_deref(), &DENIED).await,
    }
}

/// Sends the prompt unless it is there: from an earlier start, or from an attempt whose answer was lost.
async fn send(client: &Client, id: &str, prompt: &Prompt) -> Result<(), Error> {
    let patience = Patience::begin();
    loop {
        match send_once(client, id, prompt).await {
            Err(error) => patience.bear(error).await?,
            sent => return sent,
        }
    }
}

async fn send_once(client: &Client, id: &str, prompt: &Prompt) -> Result<(), Error> {
    if !client.messages(id, 1).await?.is_empty() {
        return Ok(());
    }
    let sent = client.prompt_async(id, prompt).await;
    if matches!(sent, Err(Error::Unreachable { .. })) {
        sleep(SETTLE).await;
    }
    sent
}

/// Bears faults that may pass, for [`PATIENCE`] at most.
struct Patience(Instant);

impl Patience {
    fn begin() -> Self {
        Self(Instant::now())
    }

    async fn bear(&self, error: Error) -> Result<(), Error> {
        if !error.is_transient() || self.0.elapsed() >= PATIENCE {
            return Err(error);
        }
        tracing::warn!(%error, "trying again");
        sleep(RETRY).await;
        Ok(())
    }
}

/// Stops what still runs, and looks at what came of it.
async fn close(client: &Client, ending: &mut Ending, session: Session) {
    if matches!(ending.outcome, Outcome::Aborted | Outcome::Timeout)
        && let Err(error) = client.abort(&session.id).await
    {
        tracing::warn!(%error, "the session could not be aborted");
    }
    ending.session = Some(ending::describe(&session, None));
    let latest = client.session(&session.id).await.unwrap_or(session);
    let messages = client.messages(&latest.id, ending::COUNTED).await.ok();
    ending.session = Some(ending::describe(&latest, messages.map(|m| m.len())));
}
