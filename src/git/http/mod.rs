//! Git's smart HTTP over libcurl: one request at a time, on the calling thread.
//!
//! gix brings an HTTP backend too. This one adds what a server for many namespaces needs: an overall deadline, byte
//! limits, `Retry-After`, redirects that never take a credential elsewhere, addresses checked after the lookup, and
//! errors that say what a user should do.

mod answer;
mod client;
mod exchange;
mod route;

use std::{any::Any, cell::RefCell, path::Path, rc::Rc, sync::Arc};

use gix::protocol::transport::client::blocking_io::http::{
    GetResponse, Http, PostBodyDataKind, PostResponse, Transport,
};

use super::{
    address::Policy,
    error::GitError,
    remote::{Access, Stop},
};
use client::Client;
use exchange::{Exchange, Part, Upload};

/// The failure behind gix's opaque errors, kept where the caller finds it.
pub(super) type LastFailure = Rc<RefCell<Option<GitError>>>;

/// Opens a transport to an http(s) remote. Nothing is sent yet.
pub(super) fn transport(
    access: &Access,
    policy: &Arc<Policy>,
    limit: u64,
    folder: &Path,
    stop: &Arc<Stop>,
) -> (Transport<CurlHttp>, LastFailure) {
    let failure = LastFailure::default();
    let client = Client::new(access, policy, limit, folder, stop);
    let http = CurlHttp { client: Rc::new(RefCell::new(client)), failure: failure.clone() };
    let url = access.url.to_string();
    let url = gix::Url::try_from(url.as_str()).unwrap_or_default();
    (Transport::new_http(http, url, gix::protocol::transport::Protocol::V2, false), failure)
}

/// What gix drives.
pub(super) struct CurlHttp {
    client: Rc<RefCell<Client>>,
    failure: LastFailure,
}

impl Http for CurlHttp {
    type Headers = Part;
    type ResponseBody = Part;
    type PostBody = Upload;

    fn get(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Part, Part>> {
        let exchange = self.exchange(url, base_url, headers, false);
        // At once, so that a redirect is known before gix asks for it.
        exchange.borrow_mut().run();
        Ok(GetResponse { headers: Part::headers(&exchange), body: Part::body(&exchange) })
    }

    fn post(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _kind: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Part, Part, Upload>> {
        let exchange = self.exchange(url, base_url, headers, true);
        Ok(PostResponse {
            post_body: Upload(exchange.clone()),
            headers: Part::headers(&exchange),
            body: Part::body(&exchange),
        })
    }

    fn configure(&mut self, _config: &dyn Any) -> gix::Result<()> {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.client.borrow().redirected.clone()
    }
}

impl CurlHttp {
    fn exchange(
        &self,
        url: &str,
        base: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        post: bool,
    ) -> Rc<RefCell<Exchange>> {
        let headers = headers.into_iter().map(|h| h.as_ref().to_owned()).collect();
        let exchange = Exchange::new(self.client.clone(), self.failure.clone(), url, base, headers, post);
        Rc::new(RefCell::new(exchange))
    }
}
