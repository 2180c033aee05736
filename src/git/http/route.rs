//! Where a request goes: looked up, checked, and held to.

use std::net::IpAddr;

use curl::easy::{Easy2, List};

use super::answer::Receiver;
use crate::git::{
    address::Policy,
    credential::Proxy,
    error::{GitError, Reason},
    remote::{checked_addresses, checked_literally},
    url::{RemoteUrl, Scheme},
};

/// Goes to the address itself, whatever the environment says.
pub(super) fn directly(
    handle: &mut Easy2<Receiver>,
    target: &RemoteUrl,
    port: u16,
    policy: &Policy,
) -> Result<Vec<IpAddr>, GitError> {
    // A redirect may lead from what a proxy is for to what none is for.
    handle.proxy("").map_err(|_| GitError::new(Reason::ProtocolError, "the request cannot be made without a proxy"))?;
    checked_addresses(target.host(), port, policy)
}

/// Sends everything through the proxy of a credential. Its own address is checked like that of a remote, and is the result;
/// where a name leads behind it is its business, unless the name itself says that it is where no remote may be.
pub(super) fn through(
    handle: &mut Easy2<Receiver>,
    target: &RemoteUrl,
    proxy: &Proxy,
    policy: &Policy,
) -> Result<Vec<IpAddr>, GitError> {
    let (host, port) = (proxy.url.host(), proxy.url.port().unwrap_or_default());
    let addresses = checked_addresses(host, port, policy).map_err(|error| GitError {
        message: format!("the proxy (of proxySecretRef, or of the agent): {}", error.message),
        ..error
    })?;
    checked_literally(target.host(), policy)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut set = || {
        handle.proxy(&proxy.address())?;
        handle.noproxy("")?;
        if let Some((user, password)) = &proxy.login {
            handle.proxy_username(&text(user.expose()))?;
            handle.proxy_password(&text(password.expose()))?;
        }
        pin(handle, host, port, &addresses)
    };
    set().map(|()| addresses.clone()).map_err(|_| {
        GitError::new(Reason::ProtocolError, "the proxy (of proxySecretRef, or of the agent) cannot be used")
    })
}

/// Where to connect to. Behind a proxy of the environment a name may be known only there; then everything goes through it,
/// so that nothing is ever looked up unchecked.
pub(super) fn addresses(
    handle: &mut Easy2<Receiver>,
    target: &RemoteUrl,
    port: u16,
    policy: &Policy,
) -> Result<Vec<IpAddr>, GitError> {
    match checked_addresses(target.host(), port, policy) {
        Err(error) if error.reason == Reason::Unreachable && has_proxy(target.scheme()) => {
            let forced = handle.noproxy("");
            forced.map(|()| vec![]).map_err(|_| error)
        }
        other => other,
    }
}

/// Whether curl would use a proxy for this scheme, by the names that it knows.
fn has_proxy(scheme: Scheme) -> bool {
    let names: &[&str] = match scheme {
        Scheme::Https => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    names.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Connects to the addresses that were checked, whatever the name says a moment later.
pub(super) fn pin(
    handle: &mut Easy2<Receiver>,
    host: &str,
    port: u16,
    addresses: &[IpAddr],
) -> Result<(), curl::Error> {
    if addresses.is_empty() || host.contains(':') {
        return Ok(());
    }
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut list = List::new();
    list.append(&format!("{host}:{port}:{}", all.join(",")))?;
    handle.resolve(list)
}
