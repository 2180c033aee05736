//! `task-run` against the real server, through the door.

use std::{io::Write, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use pilothouse::pod::task_run::{Budget, Ending, Outcome, TaskRunArgs, attend};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{Pod, Real, eventually, moves::impostor};
use crate::common::{
    agent_server::{AgentServer, Illness, Setup},
    model::Script,
};

pub(super) const TITLE: &str = "pilothouse/team/task/0a1b2c3d";

/// What was printed.
#[derive(Clone, Default)]
pub(super) struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Printed {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

pub(super) fn task(pod: &Pod, url: &str) -> TaskRunArgs {
    let prompt_file = pod.files.path().join("prompt");
    std::fs::write(&prompt_file, "say something").unwrap();
    TaskRunArgs {
        url: url.to_owned(),
        pod: None,
        auth_dir: pod.files.path().join("auth"),
        prompt_file,
        context_file: None,
        title: TITLE.into(),
        timeout_seconds: 0,
        again: false,
        budget: Budget::default(),
        agent: None,
        termination_log: pod.files.path().join("last-words"),
    }
}

impl Real {
    /// Runs a Task with this session title: exit code and last words.
    pub(crate) async fn run_task(&self, title: &str) -> (i32, String) {
        let args = TaskRunArgs { title: title.into(), ..task(&self.pod, &self.pod.url()) };
        let (ending, _) = run(&args).await;
        (ending.outcome.exit_code().into(), last_words(&args, &ending).to_string())
    }
}

async fn run(args: &TaskRunArgs) -> (Ending, String) {
    let mut out = Printed::default();
    let ending = attend(args, &mut out, std::future::pending()).await;
    (ending, out.text())
}

fn last_words(args: &TaskRunArgs, ending: &Ending) -> Value {
    ending.write(&args.termination_log).unwrap();
    serde_json::from_slice(&std::fs::read(&args.termination_log).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_answered_once_however_often_it_is_started() {
    let real = Real::start().await;
    let args = task(&real.pod, &real.pod.url());
    let (ending, text) = run(&args).await;
    assert_eq!(
        (ending.outcome, ending.outcome.exit_code(), text.as_str()),
        (Outcome::Completed, 0, "word0 word1 word2 word3 \n")
    );
    let words = last_words(&args, &ending);
    assert_eq!((&words["reason"], &words["session"]["title"]), (&"Completed".into(), &TITLE.into()));
    assert_eq!(words["session"]["summary"]["messageCount"], 2);
    assert_eq!(words["session"]["summary"]["tokenUsage"]["output"], 4);
    assert_eq!(words["session"]["summary"]["cost"], "0.000000");

    let calls = real.model.calls().len();
    let (again, text) = run(&args).await;
    assert_eq!((again, text.as_str()), (ending, "word0 word1 word2 word3 \n"));
    assert_eq!(real.model.calls().len(), calls, "the model was not asked again");
}

/// What a Task brings with it is in the session that works on it, and in no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contexts_of_a_task_reach_its_session() {
    let real = Real::start().await;
    let context_file = Some(real.pod.files.path().join("context.md"));
    std::fs::write(context_file.as_ref().unwrap(), "<context>\nThe word is heron.\n</context>\n").unwrap();
    let args = TaskRunArgs { context_file, ..task(&real.pod, &real.pod.url()) };
    assert_eq!(run(&args).await.0.outcome, Outcome::Completed);
    let said = |calls: &[crate::common::model::Call]| calls.iter().any(|call| call.body.to_string().contains("heron"));
    let calls = real.model.calls();
    assert!(said(&calls), "the model was not told");
    let other = TaskRunArgs { title: format!("{TITLE}-other"), context_file: None, ..args };
    assert_eq!(run(&other).await.0.outcome, Outcome::Completed);
    assert!(!said(&real.model.calls()[calls.len()..]), "another session has it too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_model_is_an_error_of_the_task() {
    let real = Real::start().await;
    real.model.play(Script::failing(400));
    let args = task(&real.pod, &real.pod.url());
    let (ending, text) = run(&args).await;
    assert_eq!((ending.outcome, ending.outcome.exit_code()), (Outcome::AgentError, 10), "{ending:?}");
    assert!(ending.message.contains("scripted failure"), "{ending:?}");
    assert_eq!(text, "");
    assert_eq!(last_words(&args, &ending)["reason"], "AgentError");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_and_a_timeout_abort_the_session() {
    let real = Real::start().await;
    real.model.play(Script::held());
    let mut args = task(&real.pod, &real.pod.url());
    let mut out = Printed::default();
    let (stop, mut stopped) = watch::channel(false);
    let seen = out.clone();
    tokio::spawn(async move {
        eventually("the first word is printed", || !seen.text().is_empty()).await;
        stop.send_replace(true);
    });
    let ending = attend(&args, &mut out, async { _ = stopped.wait_for(|stop| *stop).await }).await;
    assert_eq!((ending.outcome.exit_code(), out.text().as_str()), (30, "word0 "));
    let work = real.pod.sidecar.work.clone();
    eventually("the session stops", || work.snapshot().without_work()).await;

    args.title = format!("{TITLE}-2");
    args.timeout_seconds = 2;
    let (ending, _) = run(&args).await;
    assert_eq!((ending.outcome, ending.outcome.exit_code()), (Outcome::Timeout, 20));
    eventually("the session stops", || work.snapshot().without_work()).await;
    assert_eq!(last_words(&args, &ending)["session"]["title"], args.title);
}

/// A session that has taken too much is stopped in the middle of its next step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_takes_too_much_is_aborted() {
    let real = Real::start().await;
    real.model
        .play(Script { hold: true, ..Script::tool("bash", json!({"command": "true", "description": "nothing"})) });
    let mut args = task(&real.pod, &real.pod.url());
    args.budget.tokens = Some(5);
    let (ending, _) = run(&args).await;
    assert_eq!((ending.outcome, ending.outcome.exit_code()), (Outcome::BudgetExceeded, 21), "{ending:?}");
    let words = last_words(&args, &ending);
    assert_eq!(words["reason"], "BudgetExceeded");
    assert!(words["message"].as_str().unwrap().contains("spec.budget.maxTokens"), "{words}");
    let taken = &words["session"]["summary"]["tokenUsage"];
    assert!(taken["input"].as_i64().unwrap() >= 10, "{words}");
    let work = real.pod.sidecar.work.clone();
    eventually("the session stops", || work.snapshot().without_work()).await;

    // Within its budget it ends as ever.
    real.model.play(Script::default());
    let budget = Budget { cost: Some(1), tokens: Some(1000) };
    let args = TaskRunArgs { title: format!("{TITLE}-2"), budget, ..args };
    assert_eq!(run(&args).await.0.outcome, Outcome::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_event_stream_loses_no_word() {
    let real = Real::start().await;
    real.model.play(Script::held());
    let wire = Wire::start(real.pod.sidecar.address).await;
    let args = task(&real.pod, &format!("http://{}", wire.address));
    let out = Printed::default();
    let mut writer = out.clone();
    let running = tokio::spawn(async move { attend(&args, &mut writer, std::future::pending()).await });
    eventually("the first word is printed", || !out.text().is_empty()).await;
    wire.cut();
    real.model.release();
    let ending = running.await.unwrap();
    assert_eq!((ending.outcome, out.text().as_str()), (Outcome::Completed, "word0 word1 word2 word3 \n"));
}

/// A further try finds what the last one has aborted: that is no sign that its own prompt was taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_got_lost_is_sent_again_although_the_session_has_an_older_one() {
    let server = AgentServer::start(Setup { directory: "/".into(), ..Setup::default() }).await;
    let pod = Pod::in_front_of(server.port).await;
    pod.known().await;
    let args = task(&pod, &pod.url());
    std::fs::write(&args.prompt_file, "Take your time. [[words=4 hold]]").unwrap();
    let out = Printed::default();
    let seen = out.clone();
    let stop = async move { eventually("the first word is printed", || !seen.text().is_empty()).await };
    let ending = attend(&args, &mut out.clone(), stop).await;
    assert_eq!(ending.outcome, Outcome::Aborted, "{ending:?}");

    server.feels(Illness { deaf: true, ..Illness::default() });
    let again = TaskRunArgs { again: true, ..args };
    let out = Printed::default();
    let mut writer = out.clone();
    let running = tokio::spawn(async move { attend(&again, &mut writer, std::future::pending()).await });
    eventually("the agent is at work", || !out.text().is_empty()).await;
    server.release();
    let ending = running.await.unwrap();
    assert_eq!((ending.outcome, out.text().as_str()), (Outcome::Completed, "word0 word1 word2 word3 \n"), "{ending:?}");
}

#[tokio::test]
async fn what_the_pod_lacks_is_named() {
    let pod = Pod::in_front_of(1).await;
    let mut args = task(&pod, &pod.url());
    args.prompt_file = pod.files.path().join("nothing");
    let (ending, _) = run(&args).await;
    assert_eq!(ending.outcome.exit_code(), 2);
    assert!(ending.message.contains("nothing"), "{}", ending.message);
}

/// A wire that can be cut: all connections through it break, later ones work.
struct Wire {
    address: SocketAddr,
    cuts: watch::Sender<u32>,
}

impl Wire {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }
}

/// A bare address may be anybody's by the time that a Task goes there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_for_one_pod_shows_its_password_to_that_pod_alone() {
    let real = Real::start().await;
    let address = real.pod.sidecar.address;
    let of = |uid: &str, url: String| TaskRunArgs { pod: Some(uid.into()), ..task(&real.pod, &url) };
    let (ending, text) = run(&of("uid-1", format!("http://{address}"))).await;
    assert_eq!((ending.outcome, text.as_str()), (Outcome::Completed, "word0 word1 word2 word3 \n"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    let heard = impostor(listener, "x-pilothouse-pod: uid-1\r\n".into());
    for (uid, url) in [("uid-1", other), ("uid-2", format!("http://{address}"))] {
        let sessions = real.sessions().await;
        let asked = async {
            let asked = || heard.lock().matches("/pilothouse/proof").count() > 1;
            if uid == "uid-1" {
                eventually("it is asked again", asked).await;
            } else {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        };
        let mut out = Printed::default();
        let ending = attend(&of(uid, url), &mut out, asked).await;
        assert_eq!((ending.outcome, out.text().as_str()), (Outcome::Aborted, ""), "{uid}");
        assert_eq!(real.sessions().await, sessions);
    }
    let heard = heard.lock().clone();
    assert!(!heard.to_lowercase().contains("authorization") && !heard.contains("/session"), "{heard}");
}

#[tokio::test]
async fn a_refused_password_is_no_fault_that_passes() {
    let pod = Pod::in_front_of(1).await;
    let args = task(&pod, &pod.url());
    let auth = pod.files.path().join("other");
    std::fs::create_dir(&auth).unwrap();
    std::fs::write(auth.join("username"), "opencode").unwrap();
    std::fs::write(auth.join("password"), "wrong").unwrap();
    let (ending, _) = run(&TaskRunArgs { auth_dir: auth, ..args }).await;
    assert_eq!(ending.outcome, Outcome::AgentError);
    assert!(ending.message.contains("refuses the password"), "{}", ending.message);
}
