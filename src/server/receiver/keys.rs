//! Tokens of webhooks, read where a delivery needs one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use tracing::warn;

use super::index::Target;
use crate::api::webhook::Token;

/// A token that was read is good for this long. Another one makes another path, which arrives by a watch: this is for
/// the time without a controller.
const GOOD: Duration = Duration::from_mins(1);
/// After a failure it is tried again after this time.
const FAILED: Duration = Duration::from_secs(1);
const READ_TIMEOUT: Duration = Duration::from_secs(5);

struct Held {
    path: String,
    until: Instant,
    token: Option<Token>,
}

/// One read at a time for each Repository.
type Slot = Arc<tokio::sync::Mutex<Option<Held>>>;

/// Reads Secrets by name; it needs no right to list them.
pub(super) struct Keys {
    client: Client,
    slots: Mutex<HashMap<String, Slot>>,
}

impl Keys {
    /// Nothing is held yet.
    pub(super) fn new(client: Client) -> Self {
        Self { client, slots: Mutex::default() }
    }

    /// The token of a Repository, if it makes the path under which the Repository was found.
    pub(super) async fn of(&self, target: &Target) -> Option<Token> {
        let slot = self.slots.lock().entry(target.uid.clone()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(held) = slot.as_ref()
            && held.path == target.path
            && Instant::now() < held.until
        {
            return held.token.clone();
        }
        let token = self.read(target).await.filter(|token| makes(token, target));
        let until = Instant::now() + if token.is_some() { GOOD } else { FAILED };
        *slot = Some(Held { path: target.path.clone(), until, token: token.clone() });
        token
    }

    /// Forgets a Repository.
    pub(super) fn forget(&self, uid: &str) {
        self.slots.lock().remove(uid);
    }

    async fn read(&self, target: &Target) -> Option<Token> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &target.namespace);
        let why = match tokio::time::timeout(READ_TIMEOUT, api.get_opt(&target.secret)).await {
            Ok(Ok(Some(secret))) => match Token::from_secret(&secret.data.unwrap_or_default()) {
                Ok(token) => return Some(token),
                Err(error) => error.to_string(),
            },
            Ok(Ok(None)) => "it does not exist".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server did not answer".to_owned(),
        };
        let Target { namespace, name, secret, .. } = target;
        warn!(namespace, repository = name, secret, "the Secret of a webhook cannot be used: {why}");
        None
    }
}

fn makes(token: &Token, target: &Target) -> bool {
    let path = token.path(&target.namespace, &target.name, &target.uid);
    path.as_bytes().ct_eq(target.path.as_bytes()).into()
}
