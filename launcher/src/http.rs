//! HTTPS as the launcher speaks it: for objects, and for long polls where those are the wire.

use reqwest::{Client, ClientBuilder, redirect};
use rustls::ClientConfig;

use crate::config::Proxy;

/// The proxy cannot be used as a URL.
#[derive(Debug, thiserror::Error)]
#[error(
    "HTTPS_PROXY cannot be used as a URL: write special characters of user and password as %40"
)]
pub struct InvalidProxy;

/// A client with these TLS settings, through `proxy` but for the hosts that it is not for. It follows
/// nobody elsewhere.
///
/// # Errors
/// When the proxy cannot be used.
pub fn client(tls: ClientConfig, proxy: Option<&Proxy>) -> Result<ClientBuilder, InvalidProxy> {
    let mut builder = Client::builder().no_proxy();
    if let Some(proxy) = proxy.cloned() {
        let url = reqwest::Url::parse(&proxy.url()).map_err(|_| InvalidProxy)?;
        builder = builder.proxy(reqwest::Proxy::custom(move |to| {
            to.host_str().is_some_and(|host| proxy.is_for(host)).then(|| url.clone())
        }));
    }
    Ok(builder.tls_backend_preconfigured(tls).https_only(true).redirect(redirect::Policy::none()))
}
