//! Requests to the API server under one account.

use std::{fmt::Write, time::Duration};

use http::{HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use kube::{Client, client::Body, core::Status};
use serde_json::{Value, json};

use super::{error::ApiError, kinds::Resource};
use crate::{api::names::manager, object::ObjectId};

/// No request under an account may take longer. Admission webhooks may take 30 s themselves, and the API server then
/// says which one did not answer.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(35);
/// Larger answers are refused: the API server's own objects are 1.5 MiB at most.
const MAX_ANSWER: usize = 8 << 20;
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Whose rights are used. One connection pool serves all accounts: the account is a header of each request, and the
/// API server adds the groups of a `ServiceAccount` by itself.
#[derive(Clone)]
pub struct Account {
    client: Client,
    impersonate: Option<(HeaderValue, String, String)>,
    role: Option<String>,
}

/// What an apply does to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It writes.
    Write,
    /// It only says what would be.
    DryRun,
}

impl Account {
    /// The rights of a `ServiceAccount`, by impersonation.
    pub fn service_account(client: Client, namespace: &str, name: &str) -> Result<Self, ApiError> {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let header = HeaderValue::from_str(&user)
            .map_err(|_| ApiError::Rejected { code: 0, message: format!("{name:?} is no name of a ServiceAccount") })?;
        Ok(Self { client, impersonate: Some((header, namespace.into(), name.into())), role: None })
    }

    /// The client's own rights (of the person at the command line).
    pub fn own(client: Client) -> Self {
        Self { client, impersonate: None, role: None }
    }

    /// Names the `ClusterRole` that whoever lacks rights is told to bind.
    #[must_use]
    pub fn with_role(mut self, role: Option<&str>) -> Self {
        self.role = role.map(Into::into);
        self
    }

    /// The `ClusterRole` to bind, `None` where the controller was not told of one.
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// `namespace:name` of the `ServiceAccount`; `None` for [`own`](Self::own).
    pub fn service_account_name(&self) -> Option<(&str, &str)> {
        self.impersonate.as_ref().map(|(_, namespace, name)| (namespace.as_str(), name.as_str()))
    }

    /// The whole object; `None` when there is none.
    pub async fn get(&self, resource: &Resource, id: &ObjectId) -> Result<Option<Value>, ApiError> {
        self.read(resource, id, "application/json").await
    }

    /// The object's metadata; `None` when there is none.
    pub async fn get_metadata(&self, resource: &Resource, id: &ObjectId) -> Result<Option<Value>, ApiError> {
        self.read(resource, id, METADATA_ONLY).await
    }

    async fn read(&self, resource: &Resource, id: &ObjectId, accept: &'static str) -> Result<Option<Value>, ApiError> {
        match self.send(Method::GET, &resource.url(id), accept, None).await {
            Ok((_, value)) => Ok(Some(value)),
            Err(ApiError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Server-side apply. Fields that others own are taken over: Git is the truth for what it names. Returned are
    /// whether the object was created, and the object.
    pub async fn apply(
        &self,
        resource: &Resource,
        id: &ObjectId,
        object: &Value,
        mode: Mode,
    ) -> Result<(bool, Value), ApiError> {
        let dry = if mode == Mode::DryRun { "&dryRun=All" } else { "" };
        let url = format!("{}?fieldManager={}&force=true&fieldValidation=Strict{dry}", resource.url(id), manager::SYNC);
        let body = Some(("application/apply-patch+yaml", object));
        let (code, live) = self.send(Method::PATCH, &url, "application/json", body).await?;
        Ok((code == 201, live))
    }

    /// Creates an object that must not exist.
    pub async fn create(
        &self,
        resource: &Resource,
        id: &ObjectId,
        object: &Value,
        mode: Mode,
    ) -> Result<Value, ApiError> {
        let dry = if mode == Mode::DryRun { "&dryRun=All" } else { "" };
        let url = format!("{}?fieldManager={}&fieldValidation=Strict{dry}", resource.collection(id), manager::SYNC);
        Ok(self.send(Method::POST, &url, "application/json", Some(("application/json", object))).await?.1)
    }

    /// Deletes the object if it has this uid; dependents go in the background. Absence, and another uid, are success:
    /// what was to be deleted is gone.
    pub async fn delete(&self, resource: &Resource, id: &ObjectId, uid: &str) -> Result<(), ApiError> {
        let options = json!({"preconditions": {"uid": uid}, "propagationPolicy": "Background"});
        let body = Some(("application/json", &options));
        match self.send(Method::DELETE, &resource.url(id), "application/json", body).await {
            Ok(_) | Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Any resource below `path`, read with this account's rights.
    pub async fn read_path(&self, path: &str) -> Result<Value, ApiError> {
        Ok(self.send(Method::GET, path, "application/json", None).await?.1)
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        accept: &'static str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<(u16, Value), ApiError> {
        let mut request = Request::builder().method(method).uri(url).header(header::ACCEPT, accept);
        if let Some((user, ..)) = &self.impersonate {
            request = request.header("impersonate-user", user);
        }
        let bytes = match body {
            None => vec![],
            Some((content_type, value)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                serde_json::to_vec(value).map_err(|e| ApiError::Unavailable(e.to_string()))?
            }
        };
        let request = request.body(Body::from(bytes)).map_err(|e| ApiError::Unavailable(e.to_string()))?;
        tokio::time::timeout(REQUEST_LIMIT, exchange(&self.client, request))
            .await
            .map_err(|_| ApiError::Unavailable(format!("no answer within {} s", REQUEST_LIMIT.as_secs())))?
    }
}

async fn exchange(client: &Client, request: Request<Body>) -> Result<(u16, Value), ApiError> {
    let unavailable = |e: &dyn std::fmt::Display| ApiError::Unavailable(e.to_string());
    let response = client.send(request).await.map_err(|e| unavailable(&e))?;
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    let bytes = body.collect().await.map_err(|e| unavailable(&e))?.to_bytes();
    if (200..300).contains(&code) {
        let value = serde_json::from_slice(&bytes).map_err(|e| unavailable(&e))?;
        return Ok((code, value));
    }
    let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_default();
    Err(ApiError::from_status(code, status))
}

/// One segment of a path: a name from Git must not lead to another resource.
pub(super) fn segment(name: &str) -> String {
    let dots = name.chars().all(|c| c == '.');
    name.bytes().fold(String::with_capacity(name.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            b'.' if !dots => out.push('.'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_name_stays_one_segment() {
        for (name, want) in [
            ("a.b-c", "a.b-c"),
            ("system:admin", "system:admin"),
            ("a/../../secrets/x", "a%2F..%2F..%2Fsecrets%2Fx"),
            ("..", "%2E%2E"),
            ("a?dryRun=All#", "a%3FdryRun%3DAll%23"),
        ] {
            assert_eq!(segment(name), want);
        }
    }
}
