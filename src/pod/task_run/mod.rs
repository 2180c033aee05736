//! `pilothouse task-run`: takes one Task to an agent's server, follows it to its end, and says what came of it.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | completed |
//! | 2 | a file that the pod should have is not there |
//! | 10 | the agent or its model failed |
//! | 20 | the time was up; the session was aborted |
//! | 21 | it took more than its budget; the session was aborted |
//! | 30 | somebody stopped it; the session was aborted |
//! | 40 | the agent's server was not reached for too long, or forgot the session |
//!
//! The answer's text goes to stdout as it comes. The last words are JSON in the container's termination message:
//! `{reason, message, result, log, session{id, title, summary}}`. It may be started again at any point: the session is found by its
//! title, and a prompt that is in it is not sent twice.

mod budget;
mod ending;
mod follow;
mod print;
mod tail;
pub mod taken;

pub use budget::Budget;
pub use ending::{Ending, Outcome};

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tokio::time::{Instant, sleep};

use self::{
    follow::Follow,
    tail::Tail,
    taken::{NotTaken, Sent},
};
use super::{
    opencode::{Client, Credentials, Error, Message, Prompt, Rule, Session},
    sidecar::auth,
};

/// A server that is not reached for longer than this is given up.
const PATIENCE: Duration = Duration::from_mins(5);
const RETRY: Duration = Duration::from_secs(1);
/// After a prompt whose answer was lost: how long until it would show in the session.
const SETTLE: Duration = Duration::from_secs(5);
/// Name of the error of a message that was aborted.
const ABORTED: &str = "MessageAbortedError";
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
    /// Uid of the pod at that address, where it is a pod's: it has to prove that it is this one before anything is sent to it
    #[arg(long, env = "PILOTHOUSE_AGENT_POD", value_name = "UID")]
    pub pod: Option<String>,
    /// Folder with `username` and `password` (a mounted Secret)
    #[arg(long, env = "PILOTHOUSE_AUTH_DIR", default_value = "/pilothouse/auth", value_name = "DIR")]
    pub auth_dir: PathBuf,
    /// File with the prompt
    #[arg(long, env = "PILOTHOUSE_PROMPT_FILE", value_name = "FILE")]
    pub prompt_file: PathBuf,
    /// File with the contexts of the Task, if it has any
    #[arg(long, env = "PILOTHOUSE_CONTEXT_FILE", value_name = "FILE")]
    pub context_file: Option<PathBuf>,
    /// Title of the session; the session is found by it
    #[arg(long, env = "PILOTHOUSE_SESSION_TITLE", value_name = "TITLE")]
    pub title: String,
    /// Seconds until the session is aborted; 0 for no limit
    #[arg(long, env = "PILOTHOUSE_TASK_TIMEOUT_SECONDS", default_value_t = 0, value_name = "S")]
    pub timeout_seconds: u64,
    /// Whether this is a further try: a session that was aborted is prompted again
    #[arg(long, env = "PILOTHOUSE_TASK_AGAIN", value_name = "true|false", default_value_t, action = clap::ArgAction::Set)]
    pub again: bool,
    /// What the session may take.
    #[command(flatten)]
    pub budget: Budget,
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
    let task = match Errand::prepare(args) {
        Ok(task) => task,
        Err(message) => return Ending::new(Outcome::Misconfigured, message),
    };
    let (mut open, mut out) = (None, Tail::new(out));
    let limit = async {
        match args.timeout_seconds {
            0 => std::future::pending().await,
            seconds => sleep(Duration::from_secs(seconds)).await,
        }
    };
    let mut ending = tokio::select! {
        ending = work(&task, &mut open, &mut out) => ending,
        () = stop => Ending::new(Outcome::Aborted, "the Task was stopped"),
        () = limit => Ending::new(Outcome::Timeout, "the Task took longer than its timeout"),
    };
    if let Some(Open { pod, session }) = open {
        let closing = close(&pod, &mut ending, session);
        let _ = tokio::time::timeout(GOODBYE, closing).await; // what is not known by then stays unknown
    }
    ending.log = out.text();
    ending
}

/// What is to be done, and for whom.
struct Errand<'a> {
    args: &'a TaskRunArgs,
    credentials: Credentials,
    prompt: Prompt,
}

/// A session, and the pod that it lives in.
struct Open {
    pod: Client,
    session: Session,
}

impl<'a> Errand<'a> {
    fn prepare(args: &'a TaskRunArgs) -> Result<Self, String> {
        let credentials = auth::read_secret(&args.auth_dir).map_err(|e| format!("cannot read the password: {e}"))?;
        let mut prompt = Prompt::text(read(&args.prompt_file)?);
        if let Some(contexts) = contexts(args.context_file.as_deref())? {
            prompt = prompt.after(contexts);
        }
        prompt.agent.clone_from(&args.agent);
        let task = Self { args, credentials, prompt };
        task.server().map_err(|e| e.to_string())?;
        Ok(task)
    }

    /// A client of whichever pod answers, or of the one that is meant. Nothing is connected yet.
    fn server(&self) -> Result<Client, Error> {
        match &self.args.pod {
            Some(uid) => Client::of_pod(&self.args.url, uid, &self.credentials),
            None => Client::new(&self.args.url, Some(&self.credentials)),
        }
    }

    /// A client of one pod.
    async fn pod(&self) -> Result<Client, Error> {
        let server = self.server()?;
        if self.args.pod.is_some() { Ok(server) } else { server.pinned().await }
    }
}

/// The contexts; most Tasks have none, and so no file.
fn contexts(file: Option<&Path>) -> Result<Option<String>, String> {
    let Some(file) = file else { return Ok(None) };
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text).filter(|t| !t.trim().is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read the contexts {}: {error}", file.display())),
    }
}

fn read(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read the prompt {}: {e}", file.display()))?;
    if text.trim().is_empty() { Err(format!("the prompt {} is empty", file.display())) } else { Ok(text) }
}

/// Takes the prompt to a pod and follows it there. A pod that has not taken the prompt (it is ending, or gone, or holds
/// prompts while another takes its place) is left for whichever answers next. One that has taken it is never left: the
/// session goes on there until it ends, although the Service leads elsewhere by then.
async fn work(task: &Errand<'_>, open: &mut Option<Open>, out: &mut (impl Write + Send)) -> Ending {
    let patience = Patience::begin();
    loop {
        match attempt(task, open).await {
            Ok(mut follow) => {
                let budget = task.args.budget;
                let (pod, id) = open.as_ref().map(|open| (open.pod.clone(), open.session.id.clone())).unzip();
                let over = async {
                    match (pod, id) {
                        (Some(pod), Some(id)) => budget.exceeded(&pod, &id).await,
                        _ => std::future::pending().await,
                    }
                };
                return tokio::select! { ending = follow.finish(out) => ending, ending = over => ending };
            }
            Err(NotTaken::Never(ending)) => return ending,
            Err(NotTaken::Yet(error)) => {
                if let Err(error) = patience.bear(error).await {
                    return Ending::from_error(&error);
                }
            }
        }
    }
}

async fn attempt(task: &Errand<'_>, open: &mut Option<Open>) -> Result<Follow, NotTaken> {
    // With new connections: a kept one leads to the pod that refused.
    let pod = task.pod().await?;
    let session = find_or_create(&pod, task).await?;
    tracing::info!(session = session.id, title = session.title, "the session is open");
    *open = Some(Open { pod: pod.clone(), session: session.clone() });
    // Following begins before the prompt is sent, so that its first word is not missed.
    let mut follow = Follow::new(pod.clone(), &session.id);
    follow.connect().await?;
    let last = pod.messages(&session.id, 1).await?.pop();
    match last {
        None => send(&pod, &session.id, &task.prompt, None).await?,
        // The pod before this one was told to end, and aborted it.
        Some(last) if task.args.again && was_aborted(&last) => {
            follow.begin_after(&last);
            send(&pod, &session.id, &task.prompt, Some(&last.info.id)).await?;
        }
        // From an earlier start, or from an attempt whose answer was lost.
        Some(_) => {}
    }
    Ok(follow)
}

/// The session of this title; made where there is none. A lost answer may have made one, so each attempt looks first.
async fn find_or_create(pod: &Client, task: &Errand<'_>) -> Result<Session, Error> {
    match pod.find_session(&task.args.title).await? {
        Some(session) => Ok(session),
        None => pod.create_session(&task.args.title, task.args.agent.as_deref(), &DENIED).await,
    }
}

fn was_aborted(message: &Message) -> bool {
    message.info.error.as_ref().is_some_and(|error| error.name == ABORTED)
}

/// Sends the prompt; `last` is the session's newest message before it.
async fn send(pod: &Client, id: &str, prompt: &Prompt, last: Option<&str>) -> Result<(), NotTaken> {
    let answer = pod.prompt_async(id, prompt).await;
    match (Sent::of(&answer), answer) {
        (_, Ok(())) => Ok(()),
        (Sent::Refused, Err(error)) => Err(NotTaken::Never(Ending::from_error(&error))),
        (Sent::Unknown, Err(error)) if shows_up(pod, id, last).await? => {
            tracing::warn!(%error, "the prompt was taken, its answer was lost");
            Ok(())
        }
        (_, Err(error)) => Err(NotTaken::Yet(error)),
    }
}

/// Whether the prompt is in the session after all, behind its message `last`. Only the pod that it was sent to can tell, so it is asked until it
/// answers: another pod would do the work twice.
async fn shows_up(pod: &Client, id: &str, last: Option<&str>) -> Result<bool, NotTaken> {
    let patience = Patience::begin();
    sleep(SETTLE).await;
    loop {
        match pod.messages(id, 1).await {
            Ok(messages) => return Ok(messages.last().is_some_and(|newest| Some(newest.info.id.as_str()) != last)),
            Err(error) => patience.bear(error).await.map_err(|e| NotTaken::Never(Ending::from_error(&e)))?,
        }
    }
}

/// Bears faults that may pass, for [`PATIENCE`] at most.
struct Patience(Instant);

impl Patience {
    fn begin() -> Self {
        Self(Instant::now())
    }

    async fn bear(&self, error: Error) -> Result<(), Error> {
        if !taken::may_pass(&error) || self.0.elapsed() >= PATIENCE {
            return Err(error);
        }
        tracing::warn!(%error, "trying again");
        sleep(RETRY).await;
        Ok(())
    }
}

/// Stops what still runs, and looks at what came of it.
async fn close(client: &Client, ending: &mut Ending, session: Session) {
    if matches!(ending.outcome, Outcome::Aborted | Outcome::Timeout | Outcome::BudgetExceeded)
        && let Err(error) = client.abort(&session.id).await
    {
        tracing::warn!(%error, "the session could not be aborted");
    }
    ending.session = Some(ending::describe(&session, None));
    let latest = client.session(&session.id).await.unwrap_or(session);
    let messages = client.messages(&latest.id, ending::COUNTED).await.ok();
    ending.session = Some(ending::describe(&latest, messages.map(|m| m.len())));
}
