//! TLS with a certificate of the test's own.

use std::sync::Arc;

use high_templar::config::Uris;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, pki_types::PrivatePkcs8KeyDer},
};

/// Accepts TLS for `localhost`, with the certificate that is returned in PEM.
pub fn acceptor() -> (TlsAcceptor, String) {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key.into())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), signed.cert.pem())
}

/// Ends TLS before a RabbitMQ node. Gone when dropped.
pub struct TlsProxy {
    pub port: u16,
    /// In PEM.
    pub certificate: String,
    _task: JoinSet<()>,
}

impl TlsProxy {
    /// Before the node at `url`.
    pub async fn before(url: &str) -> Self {
        let broker = Uris::parse(url).unwrap().at(0).amqp().authority.port;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, certificate) = acceptor();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut broker = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut broker).await;
                });
            }
        });
        Self { port, certificate, _task: task }
    }
}
