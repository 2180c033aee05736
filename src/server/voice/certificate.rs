//! The certificate of the sidecars' connection: an authority of our own, kept in a Secret that all replicas share.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::{Span, Timestamp, Zoned, tz::TimeZone};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{
    api::names::{AUTHORITY_KEY, SERVING_SECRET, reasons},
    status::Failure,
};

/// Annotation of the Secret: the names that the certificate is for, separated by commas.
const NAMES: &str = "pilothouse.dev/names";
/// Annotation of the Secret: when the certificate is renewed, RFC 3339.
const RENEW_AT: &str = "pilothouse.dev/renew-at";
const AUTHORITY_PRIVATE: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const PRIVATE: &str = "tls.key";
/// The authority outlives every installation; sidecars read it from a file that is updated in place.
const AUTHORITY_YEARS: i64 = 20;
const LIFE_DAYS: i64 = 365;
const RENEW_DAYS: i64 = 240;
/// Attempts when another replica writes the Secret at the same time.
const ATTEMPTS: usize = 5;

/// Authority, certificate and keys, in PEM. Keys never show in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    authority: String,
    authority_key: String,
    certificate: String,
    key: String,
    names: String,
    renew_at: Timestamp,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("renew_at", &self.renew_at).finish_non_exhaustive()
    }
}

impl Material {
    /// A new authority and a certificate for `names` (DNS names or addresses).
    pub fn generate(names: &[String], now: Timestamp) -> Result<Self, Failure> {
        let key = KeyPair::generate().map_err(|e| broken(&e))?;
        let authority = authority_params(now).self_signed(&key).map_err(|e| broken(&e))?;
        Self::issue(authority.pem(), &key, names, now)
    }

    /// A new certificate by the same authority: sidecars that trust it need no news.
    pub fn renew(&self, names: &[String], now: Timestamp) -> Result<Self, Failure> {
        let key = KeyPair::from_pem(&self.authority_key).map_err(|e| broken(&e))?;
        Self::issue(self.authority.clone(), &key, names, now)
    }

    fn issue(authority: String, authority_key: &KeyPair, names: &[String], now: Timestamp) -> Result<Self, Failure> {
        let mut params = CertificateParams::new(names.to_vec()).map_err(|e| broken(&e))?;
        params.distinguished_name = named("pilothouse");
        validity(&mut params, now, LIFE_DAYS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(|e| broken(&e))?;
        // Only the name and the key of the authority go into what it signs, so its dates do not matter here.
        let issuer = Issuer::new(authority_params(now), authority_key);
        let certificate = params.signed_by(&key, &issuer).map_err(|e| broken(&e))?;
        Ok(Self {
            authority,
            authority_key: authority_key.serialize_pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            names: names.join(","),
            renew_at: after(now, RENEW_DAYS).timestamp(),
        })
    }

    /// The authority's certificate, for the ConfigMap in agent namespaces.
    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    /// The authority's private key (PEM): other keys are derived from it. It leaves the process for its Secret alone.
    pub fn authority_key_pem(&self) -> &str {
        &self.authority_key
    }

    /// When to call [`load_or_create`] again.
    pub fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    /// TLS for the listener. No session is kept for resumption: sidecars connect rarely, memory counts.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, Failure> {
        let pem = |e: rustls_pki_types::pem::Error| broken(&e);
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(pem)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| broken(&e))?
            .with_no_client_auth()
            .with_single_cert(chain.map_err(pem)?, key)
            .map_err(|e| broken(&e))?;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn from_secret(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok().filter(|text| !text.is_empty());
        let annotations = secret.metadata.annotations.as_ref()?;
        Some(Self {
            authority: text(AUTHORITY_KEY)?,
            authority_key: text(AUTHORITY_PRIVATE)?,
            certificate: text(CERTIFICATE)?,
            key: text(PRIVATE)?,
            names: annotations.get(NAMES)?.clone(),
            renew_at: annotations.get(RENEW_AT)?.parse().ok()?,
        })
    }

    fn into_secret(self, mut old: Secret) -> Secret {
        let data = [
            (AUTHORITY_KEY, self.authority),
            (AUTHORITY_PRIVATE, self.authority_key),
            (CERTIFICATE, self.certificate),
            (PRIVATE, self.key),
        ];
        old.data = Some(data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).into());
        old.metadata.name = Some(SERVING_SECRET.to_owned());
        let annotations = old.metadata.annotations.get_or_insert_default();
        annotations.insert(RENEW_AT.to_owned(), self.renew_at.to_string());
        annotations.insert(NAMES.to_owned(), self.names);
        let labels: &mut BTreeMap<_, _> = old.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/managed-by".to_owned(), "pilothouse".to_owned());
        old
    }
}

/// The Secret's material; made where there is none, renewed where it is time. Safe in several replicas at once: each
/// write has a precondition, and who loses reads what the other wrote.
pub async fn load_or_create(
    client: &Client,
    namespace: &str,
    names: &[String],
    now: Timestamp,
) -> Result<Material, Failure> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for _ in 0..ATTEMPTS {
        let found = secrets.get_opt(SERVING_SECRET).await.map_err(|e| unavailable(&e, "read"))?;
        let kept = found.as_ref().and_then(Material::from_secret);
        let new = match &kept {
            Some(material) if now < material.renew_at && material.names == names.join(",") => {
                return Ok(material.clone());
            }
            Some(material) => material.renew(names, now)?,
            None => Material::generate(names, now)?,
        };
        let secret = new.clone().into_secret(found.clone().unwrap_or_default());
        let params = PostParams { field_manager: Some("pilothouse".into()), ..PostParams::default() };
        let written = match found {
            None => secrets.create(&params, &secret).await,
            Some(_) => secrets.replace(SERVING_SECRET, &params, &secret).await, // its resourceVersion is in it
        };
        match written {
            Ok(_) => return Ok(new),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(unavailable(&error, "written")),
        }
    }
    Err(Failure::transient(
        reasons::SERVING_SECRET_CONFLICT,
        format!("others keep writing Secret {namespace}/{SERVING_SECRET}"),
    ))
}

fn authority_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("pilothouse authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, now, AUTHORITY_YEARS * 365);
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn after(now: Timestamp, days: i64) -> Zoned {
    let utc = now.to_zoned(TimeZone::UTC);
    utc.checked_add(Span::new().days(days)).unwrap_or(utc)
}

/// Valid from yesterday (clocks differ) for `days`.
fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let day = |days| {
        let date = after(now, days).date();
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (day(-1), day(days));
}

fn broken(error: &dyn std::error::Error) -> Failure {
    let text = format!("the certificate of the sidecars' connection cannot be made or read: {error}");
    Failure::transient(reasons::SERVING_CERTIFICATE_BROKEN, text)
}

fn unavailable(error: &kube::Error, what: &str) -> Failure {
    // The error's text may hold the Secret.
    let why = match error {
        // A Secret that is not there is no error: its namespace is not.
        kube::Error::Api(status) if status.code == 404 => {
            "its namespace does not exist: create it, or name another by --namespace".to_owned()
        }
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        _ => "the API server does not answer".to_owned(),
    };
    Failure::transient(reasons::SERVING_SECRET_UNAVAILABLE, format!("Secret {SERVING_SECRET} cannot be {what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn names() -> Vec<String> {
        vec!["pilothouse.pilothouse-system.svc".into(), "192.0.2.1".into()]
    }

    #[test]
    fn a_secret_holds_all_of_it_and_a_renewal_keeps_the_authority() {
        let first = Material::generate(&names(), now()).unwrap();
        assert_eq!(Material::from_secret(&first.clone().into_secret(Secret::default())).as_ref(), Some(&first));
        let second = first.renew(&names(), now()).unwrap();
        assert_eq!(first.authority_pem(), second.authority_pem());
        assert_ne!(first.certificate, second.certificate);
        first.server_config().unwrap();
        second.server_config().unwrap();
    }

    #[test]
    fn what_is_not_complete_is_made_anew() {
        let secret = Material::generate(&names(), now()).unwrap().into_secret(Secret::default());
        for key in [AUTHORITY_KEY, AUTHORITY_PRIVATE, CERTIFICATE, PRIVATE] {
            let mut broken = secret.clone();
            broken.data.as_mut().unwrap().remove(key);
            assert_eq!(Material::from_secret(&broken), None, "{key}");
        }
    }

    #[test]
    fn no_key_in_debug() {
        let text = format!("{:?}", Material::generate(&names(), now()).unwrap());
        assert!(!text.contains("BEGIN"), "{text}");
    }
}
