//! The Git server and the model, in a pod of a cluster that cannot reach this machine.

use std::process::ExitCode;

use super::world::{PASSWORD, REPOSITORY, USER};
use crate::common::{
    git_server::{GitServer, basic},
    model::{Model, Script},
};

/// Port of the Git server.
pub(crate) const GIT: u16 = 8080;
/// Port of the model.
pub(crate) const MODEL: u16 = 8081;

/// The Git server of the demo, with its repository.
pub(crate) async fn git_on(address: String) -> Result<GitServer, String> {
    // It has a runtime of its own, which must not start inside of ours.
    let git = tokio::task::spawn_blocking(move || GitServer::http_on(&address)).await.map_err(|e| e.to_string())?;
    git.behave(|b| b.authorization = Some(basic(USER, PASSWORD)));
    git.repository(REPOSITORY);
    Ok(git)
}

/// Serves until the pod ends.
pub(crate) async fn serve() -> ExitCode {
    let model = Model::start_on(&format!("0.0.0.0:{MODEL}")).await;
    model.play(Script::stand_in());
    match git_on(format!("0.0.0.0:{GIT}")).await {
        Ok(_git) => std::future::pending().await,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
