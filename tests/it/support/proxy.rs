//! A way to RabbitMQ that can be cut for one instance.

use high_templar::config::Uris;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Passes everything on, unless it is cut. Gone when dropped.
pub struct Proxy {
    pub url: String,
    is_cut: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// Before the node at `url`.
    pub async fn before(url: &str) -> Self {
        let port = Uris::parse(url).unwrap().at(0).amqp().authority.port;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let is_cut = watch::Sender::new(false);
        let mut task = JoinSet::new();
        task.spawn(serve(listener, port, is_cut.subscribe()));
        Self { url: url.replace(&format!(":{port}"), &format!(":{own}")), is_cut, _task: task }
    }

    /// Ends all connections, and every one that is made from now on.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn serve(listener: TcpListener, port: u16, is_cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let mut is_cut = is_cut.clone();
        connections.spawn(async move {
            let passing = async {
                let Ok(mut broker) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                let _ = copy_bidirectional(&mut client, &mut broker).await;
            };
            tokio::select! {
                biased;
                _ = is_cut.wait_for(|is_cut| *is_cut) => {}
                () = passing => {}
            }
        });
    }
}
