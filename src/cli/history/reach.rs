//! How the history is reached: the controller's Service through the API server, or the database itself.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    client::{Body, ConfigExt as _},
};
use serde::de::DeserializeOwned;
use tower::{Layer as _, ServiceExt as _};

use super::word;
use crate::{
    api::{
        names::AUDIENCE,
        voice::{CALLER_HEADER, HISTORY_PATH},
    },
    cli::{Global, controller},
    store::{Asked, By, Cost, DatabaseUrl, Store, SyncRecord, TaskRecord},
};

/// How long a token for one question lives: as short as the API server makes them.
const TOKEN_SECONDS: i64 = 600;

/// Flags that say how the history is reached.
#[derive(clap::Args, Debug)]
pub struct Reach {
    /// Namespace; default: the one of the kubeconfig's context
    #[arg(short, long, env = "PILOTHOUSE_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Namespace that the controller runs in
    #[arg(
        long,
        env = "PILOTHOUSE_CONTROLLER_NAMESPACE",
        default_value = "pilothouse-system",
        value_name = "NAMESPACE"
    )]
    pub controller_namespace: String,
    /// Name of the controller's Service
    #[arg(long, env = "PILOTHOUSE_CONTROLLER_SERVICE", default_value = "pilothouse", value_name = "NAME")]
    pub controller_service: String,
    /// Ask as this ServiceAccount, for a kubeconfig with a certificate: NAME in the namespace, or NAMESPACE/NAME
    #[arg(long, env = "PILOTHOUSE_ASK_AS", value_name = "ACCOUNT")]
    pub ask_as: Option<String>,
    /// Read this database instead: postgres://… or sqlite:FILE
    #[arg(long, env = "PILOTHOUSE_HISTORY_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<DatabaseUrl>,
}

/// Where answers come from.
pub struct Source {
    namespace: String,
    way: Way,
}

enum Way {
    Controller { client: Client, path: String, caller: HeaderValue },
    Database(Store),
}

impl Reach {
    /// Finds the way; of the database nothing is asked yet.
    pub async fn open(&self, global: &Global) -> anyhow::Result<Source> {
        if let Some(url) = self.database_url.as_ref().filter(|url| !url.is_empty()) {
            let place = url.place(std::path::Path::new("."))?.ok_or_else(|| anyhow!("--database-url is none"))?;
            // Without a namespace: whoever reads a database sees all of it.
            let namespace = self.namespace.clone().unwrap_or_default();
            return Ok(Source { namespace, way: Way::Database(Store::open_existing(&place)?) });
        }
        let client = controller::client(global).await?;
        let named = || self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let namespace = if self.all_namespaces { String::new() } else { named() };
        let caller = match &self.ask_as {
            Some(account) => bearer(&account_token(&client, &namespace, account).await?)?,
            None => own_token(controller::config(global).await?).await?,
        };
        let client = Client::try_from(impatient(controller::config(global).await?))?;
        let service = format!("https:{}:voice", self.controller_service);
        let path = format!("/api/v1/namespaces/{}/services/{service}/proxy{HISTORY_PATH}", self.controller_namespace);
        Ok(Source { namespace, way: Way::Controller { client, path, caller } })
    }
}

impl Source {
    /// Namespace that is asked about; empty for all.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// See [`Store::tasks`].
    pub async fn tasks(&self, asked: &Asked) -> anyhow::Result<Vec<TaskRecord>> {
        match &self.way {
            Way::Database(store) => Ok(store.tasks(asked).await?),
            Way::Controller { .. } => self.get(&records(asked)).await,
        }
    }

    /// See [`Store::syncs`].
    pub async fn syncs(&self, asked: &Asked) -> anyhow::Result<Vec<SyncRecord>> {
        match &self.way {
            Way::Database(store) => Ok(store.syncs(asked).await?),
            Way::Controller { .. } => self.get(&records(asked)).await,
        }
    }

    /// See [`Store::cost`].
    pub async fn cost(&self, by: By, days: u32) -> anyhow::Result<Vec<Cost>> {
        match &self.way {
            Way::Database(store) => {
                let since = Timestamp::now().checked_sub(SignedDuration::from_hours(i64::from(days) * 24));
                Ok(store.cost(by, &self.namespace, since.unwrap_or(Timestamp::MIN)).await?)
            }
            Way::Controller { .. } => {
                self.get(&format!("cost?by={}&namespace={}&days={days}", word(&by), self.namespace)).await
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, question: &str) -> anyhow::Result<T> {
        let Way::Controller { client, path, caller } = &self.way else { bail!("a database is not asked like this") };
        let mut request = Request::get(format!("{path}{question}")).body(vec![])?;
        request.headers_mut().insert(CALLER_HEADER, caller.clone());
        let text = client.request_text(request).await.map_err(|error| explained(error, path))?;
        serde_json::from_str(&text).context("the answer is not that of a controller of this release")
    }
}

fn records(asked: &Asked) -> String {
    let Asked { which, namespace, name, limit } = asked;
    format!("records?which={}&namespace={namespace}&name={name}&limit={limit}", word(which))
}

/// What a controller says of itself, 503 included, is told and not asked for again for minutes.
fn impatient(mut config: Config) -> Config {
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = Some(Duration::from_mins(1)); // the database has 30 s
    config.default_retry = false;
    config
}

/// What to do about an answer that is none.
fn explained(error: kube::Error, path: &str) -> anyhow::Error {
    let place = path.split("/proxy/").next().unwrap_or(path).trim_start_matches("/api/v1/");
    let hint = match &error {
        kube::Error::Api(status) if status.code == 403 && status.message.contains("services") => {
            "the right to get services/proxy there is missing: value history.readers of the chart gives it"
        }
        kube::Error::Api(status) if status.code == 403 => "that right is what the history is shown for",
        kube::Error::Api(status) if status.code == 401 => {
            "the kubeconfig's token may have expired, or name another --ask-as"
        }
        kube::Error::Api(status) if status.code == 404 => {
            "is the controller there? --controller-namespace and --controller-service say where"
        }
        kube::Error::Api(status) if status.code == 503 => "try again in a moment",
        _ => "see whether the API server answers",
    };
    let said = match error {
        kube::Error::Api(status) => format!("{} ({})", status.message.trim(), status.code),
        other => format!("{:#}", anyhow!(other)),
    };
    anyhow!("the history was not read from {place}: {said}; {hint}")
}

fn bearer(token: &str) -> anyhow::Result<HeaderValue> {
    let mut value =
        HeaderValue::try_from(format!("Bearer {token}")).context("the token has characters that none has")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The token with which the kubeconfig speaks to the API server, whichever way it comes by it.
async fn own_token(config: Config) -> anyhow::Result<HeaderValue> {
    let none = "this kubeconfig has no token to show to the controller (it uses a certificate, perhaps): name a ServiceAccount that \
                may read Tasks with --ask-as, or read the database with --database-url";
    let Some(layer) = config.auth_layer().context("the kubeconfig's credentials cannot be used")? else { bail!(none) };
    let echo = tower::service_fn(|request: Request<Body>| async move {
        Ok::<_, tower::BoxError>(http::Response::new(request.headers().get(AUTHORIZATION).cloned()))
    });
    let answered = layer.layer(echo).oneshot(Request::new(Body::empty())).await;
    let shown = answered.map_err(|error| anyhow!("the kubeconfig's credentials cannot be used: {error}"))?.into_body();
    shown.filter(|value| value.as_bytes().starts_with(b"Bearer ")).ok_or_else(|| anyhow!(none))
}

/// A short-lived token of an account that the API server itself takes for nothing.
async fn account_token(client: &Client, namespace: &str, account: &str) -> anyhow::Result<String> {
    let (namespace, name) = account.split_once('/').unwrap_or((namespace, account));
    if namespace.is_empty() {
        bail!("--ask-as needs NAMESPACE/NAME with --all-namespaces");
    }
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let spec = TokenRequestSpec {
        audiences: vec![AUDIENCE.into()],
        expiration_seconds: Some(TOKEN_SECONDS),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let made = api.create_token_request(name, &PostParams::default(), &request).await;
    let made = made.with_context(|| format!("cannot get a token of ServiceAccount {namespace}/{name}"))?;
    made.status.map(|status| status.token).ok_or_else(|| anyhow!("the API server made no token"))
}
