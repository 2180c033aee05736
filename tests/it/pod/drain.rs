//! The end of a pod: what was begun ends, nothing new begins, and nobody but the kubelet brings it about.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::Method;
use pilothouse::pod::opencode::{Prompt, Signal};

use super::{PASSWORD, Pod, Real, args, door::Echo, eventually};
use crate::common::{model::Script, opencode::free_port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_was_begun_ends_and_nothing_new_begins() {
    let real = Real::start().await;
    let (client, work) = (real.pod.client(), real.pod.sidecar.work.clone());
    real.model.play(Script::held());
    let session = client.create_session("begun before the end", None, &[]).await.unwrap();
    let mut events = client.events();
    assert_eq!(events.next().await, Signal::Connected);
    client.prompt_async(&session.id, &Prompt::text("hello")).await.unwrap();
    // A model that is released before it was asked would hold for ever.
    loop {
        if let Signal::Event(event) = events.next().await
            && event.payload.kind == "message.part.delta"
        {
            break;
        }
    }

    // The two hooks of the kubelet: whichever comes first.
    let asked = work.clone();
    let drained = tokio::spawn(async move { asked.drained().await });
    work.drain();
    let path = format!("/session/{}/prompt_async", session.id);
    let (status, answer) = real.pod.call(Method::POST, &path, Some(PASSWORD)).await;
    assert_eq!(status, 503, "{answer:?}");
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.headers()["connection"], "close", "the next connection goes to another pod");
    assert!(client.session(&session.id).await.is_ok(), "reading passes");
    assert!(!drained.is_finished(), "work is left: {:?}", work.snapshot());

    real.model.release();
    assert_eq!(drained.await.unwrap(), Ok(()));
    let messages = client.messages(&session.id, 10).await.unwrap();
    assert_eq!(messages.last().unwrap().text(), "word0 word1 word2 word3 ", "to the last word");
    let (status, _) = real.pod.call(Method::GET, "/drained", None).await;
    assert_eq!(status, 200, "who asks again is told again");
}

#[tokio::test]
async fn prompts_that_wait_are_refused_when_the_pod_ends() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    let work = pod.sidecar.work.clone();
    work.hold(Duration::from_secs(5)).await;
    let end = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        work.drain();
    };
    let waiting = pod.call(Method::POST, "/session/ses_1/prompt_async", Some(PASSWORD));
    assert_eq!(tokio::join!(waiting, end).0.0, 503);
    assert_eq!(pod.call(Method::POST, "/session/ses_1/abort", Some(PASSWORD)).await.0, 200, "stopping passes");
}

#[tokio::test]
async fn who_asks_does_not_make_the_pod_end() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    let (status, answer) = pod.call(Method::GET, "/drained", None).await;
    assert_eq!(status, 409, "{answer:?}");
    assert_eq!(pod.call(Method::POST, "/drained", None).await.0, 401);
    assert!(!pod.sidecar.work.snapshot().draining);
    assert_eq!(pod.client().prompt_async("ses_1", &Prompt::text("x")).await, Ok(()));
}

#[tokio::test]
async fn a_server_that_is_gone_is_not_waited_for() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    pod.known().await;
    drop(server);
    let work = pod.sidecar.work.clone();
    eventually("it is not followed any more", || !work.snapshot().known).await;
    work.drain();
    let waited = tokio::time::timeout(Duration::from_mins(1), pod.call(Method::GET, "/drained", None)).await;
    assert_eq!(waited.unwrap().0, 200);
}

/// A process that ends with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_command_tells_the_sidecar_s_process() {
    let server = Echo::start().await;
    let files = tempfile::tempdir().unwrap();
    let (args, door) = (args(&files, server.port), format!("127.0.0.1:{}", free_port()));
    let child = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["sidecar", "--door", &door, "--server-port", &server.port.to_string()])
        .arg("--auth-dir")
        .arg(&args.auth_dir)
        .arg("--workspace")
        .arg(&args.workspace)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let sidecar = Process(child);
    let client = super::Client::new(&format!("http://{door}"), Some(&super::credentials())).unwrap();
    for _ in 0..2400 {
        if client.session("ses_1").await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(client.prompt_async("ses_1", &Prompt::text("x")).await, Ok(()));
    let told = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["drain", "--pid", &sidecar.0.id().to_string()])
        .output()
        .unwrap();
    assert!(told.status.success(), "{told:?}");
    let mut refused = None;
    for _ in 0..2400 {
        if let Err(error) = client.prompt_async("ses_1", &Prompt::text("x")).await {
            refused = Some(error);
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let refused = refused.expect("prompts are refused").to_string();
    assert!(refused.contains("503"), "{refused}");
    let nobody = Command::new(env!("CARGO_BIN_EXE_pilothouse")).args(["drain", "--pid", "0"]).output().unwrap();
    assert!(!nobody.status.success(), "no whole process group");
}
