//! The path of a Repository's webhook: from a Secret to the status.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt, core::PartialObjectMeta};
use parking_lot::Mutex;

use super::{
    super::{credentials, runtime::Cache},
    decide::{Seen, set},
};
use crate::{
    api::{
        Repository, RepositoryStatus,
        names::{condition, reasons},
        webhook::Token,
    },
    status::{Condition, Failure, Note, condition::remove_condition},
};

/// What is known of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// None is wanted.
    None,
    /// Its path.
    Ready(String),
    /// There can be no path before the Secret changes: reason and message.
    Unusable(&'static str, String),
    /// The Secret could not be read this time; what was said stays.
    Unknown,
}

/// What was made of which version of which Secret.
struct Held {
    uid: String,
    secret: String,
    version: String,
    hook: Hook,
}

/// Makes paths. Of a Secret nothing is kept but the path.
pub(super) struct Hooks {
    client: Client,
    secrets: Cache<PartialObjectMeta<Secret>>,
    held: Mutex<HashMap<(String, String), Held>>,
}

impl Hooks {
    pub(super) fn new(client: Client, secrets: Cache<PartialObjectMeta<Secret>>) -> Self {
        Self { client, secrets, held: Mutex::default() }
    }

    /// The webhook of an object. An error is the API server's.
    pub(super) async fn of(&self, object: &Repository) -> Result<Hook, Failure> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let Some(webhook) = &object.spec.webhook else {
            self.forget(&namespace, &name);
            return Ok(Hook::None);
        };
        let (secret, uid) = (&webhook.secret_ref.name, object.uid().unwrap_or_default());
        let Some(meta) = self.secrets.get(&namespace, secret) else { return Ok(missing(secret)) };
        let version = meta.resource_version().unwrap_or_default();
        let key = (namespace.clone(), name.clone());
        if let Some(held) = self.held.lock().get(&key)
            && (&held.uid, &held.secret, &held.version) == (&uid, secret, &version)
        {
            return Ok(held.hook.clone());
        }
        let Some(read) = credentials::read(&self.client, &namespace, secret).await? else { return Ok(missing(secret)) };
        let version = read.resource_version().unwrap_or_default();
        let hook = match Token::from_secret(&read.data.unwrap_or_default()) {
            Ok(token) => Hook::Ready(token.path(&namespace, &name, &uid)),
            Err(error) => Hook::Unusable(reasons::SECRET_INVALID, format!("Secret {secret} of spec.webhook: {error}")),
        };
        self.held.lock().insert(key, Held { uid, secret: secret.clone(), version, hook: hook.clone() });
        Ok(hook)
    }

    /// Forgets an object.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        self.held.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }
}

fn missing(secret: &str) -> Hook {
    let message = format!("there is no Secret {secret}, which spec.webhook names, in this namespace; create it");
    Hook::Unusable(reasons::SECRET_NOT_FOUND, message)
}

/// Puts the webhook into the status; events for what is new (pure).
pub(super) fn show(status: &mut RepositoryStatus, seen: &Seen<'_>) -> Vec<Note> {
    match &seen.hook {
        Hook::Unknown => vec![],
        Hook::None => {
            status.webhook_path = None;
            remove_condition(&mut status.conditions, condition::WEBHOOK_READY);
            vec![]
        }
        Hook::Ready(path) => {
            let message = "status.webhookPath is what the forge is to call";
            set(status, seen, &Condition::yes(condition::WEBHOOK_READY, reasons::PATH_PUBLISHED, message));
            let news = status.webhook_path.replace(path.clone()).as_ref() != Some(path);
            news.then(|| Note::normal(reasons::PATH_PUBLISHED, "Webhook", message)).into_iter().collect()
        }
        Hook::Unusable(reason, message) => {
            status.webhook_path = None;
            let prior = seen.prior.conditions.iter().find(|c| c.type_ == condition::WEBHOOK_READY);
            let news = prior.is_none_or(|c| c.reason != *reason || c.message != *message);
            set(status, seen, &Condition::no(condition::WEBHOOK_READY, reason, message.clone()));
            news.then(|| Note::warning(reason, "Webhook", message.clone())).into_iter().collect()
        }
    }
}
