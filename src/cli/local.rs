//! HTTP to a server on this machine, at the address that it listens on.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use reqwest::{Client, Url};
use serde::Deserialize;

use crate::{backend::provide_cryptography, config::Listen, logging::chain};

/// Time in which a server has to say what it is.
const DEADLINE: Duration = Duration::from_secs(3);

/// Returns a client for the server at `listen`, and the URL of its root.
pub(super) fn client(listen: &Listen, deadline: Duration) -> Result<(Client, Url), String> {
    provide_cryptography();
    let (base, http) = match listen {
        Listen::Tcp(address) => {
            let mut address = *address;
            if address.ip().is_unspecified() {
                let is_v4 = address.is_ipv4();
                address.set_ip(if is_v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            (format!("http://{address}/"), Client::builder())
        }
        Listen::Unix(path) => ("http://localhost/".to_owned(), Client::builder().unix_socket(path.clone())),
    };
    let http = http.no_proxy().tls_certs_only([]).timeout(deadline).build().map_err(|error| chain(&error))?;
    let base = Url::parse(&base).map_err(|error| chain(&error))?;
    Ok((http, base))
}

/// The answer to `/healthz`: of the internal listener, or of the public one, which has nothing there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Health {
    alive: bool,
    code: String,
    message: String,
}

/// Returns whether a high-templar listens at `listen`.
pub(super) async fn is_high_templar(listen: &Listen) -> bool {
    let ask = async {
        let (http, base) = client(listen, DEADLINE).ok()?;
        let response = http.get(base.join("healthz").ok()?).send().await.ok()?;
        serde_json::from_slice::<Health>(&response.bytes().await.ok()?).ok()
    };
    ask.await.is_some_and(|health| health.alive || (health.code == "error" && health.message == "not-found"))
}
