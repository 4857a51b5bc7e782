//! RabbitMQ: the node that the test run has started, and nodes of a test's own, to be killed.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use high_templar::config::Uris;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use tempfile::TempDir;

use super::eventually;

/// The URL of the test run's own node.
pub fn shared() -> String {
    std::env::var("TEST_AMQP_URL")
        .expect("TEST_AMQP_URL is the URL of a RabbitMQ node for tests: run ./test, which starts one")
}

/// A channel of a publisher's own, at the test run's node.
pub async fn channel() -> Channel {
    channel_at(&shared()).await
}

/// The same at any node.
pub async fn channel_at(url: &str) -> Channel {
    let uris = Uris::parse(url).unwrap();
    let connection = Connection::connect_uri(uris.at(0).amqp().clone(), ConnectionProperties::default()).await.unwrap();
    connection.create_channel().await.unwrap()
}

/// A node of one test's own. Stopped when dropped.
pub struct Node {
    folder: TempDir,
    pub url: String,
}

impl Node {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("ht-rabbit-").tempdir().unwrap();
        let url = node(&["start"], folder.path());
        let node = Self { folder, url };
        // RabbitMQ writes down only after a while that it has streams at all; killed before that, it never finds them again.
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel_at(&node.url).await.queue_declare("first".into(), options, arguments).await.unwrap();
        eventually("streams are written down", async || node.has_noted_streams()).await;
        node
    }

    fn has_noted_streams(&self) -> bool {
        let names = ["data", &format!("hightemplar-{}@localhost", self.port()), "coordination"];
        let folder = names.iter().fold(self.folder.path().to_owned(), |path, name| path.join(name)).join(names[1]);
        let noted = std::fs::read(folder.join("names.dets")).unwrap_or_default();
        noted.windows(25).any(|text| text == b"rabbit_stream_coordinator")
    }

    pub fn port(&self) -> u16 {
        Uris::parse(&self.url).unwrap().at(0).amqp().authority.port
    }

    /// SIGKILL.
    pub fn kill(&self) {
        node(&["kill"], self.folder.path());
    }

    /// `rabbitmqctl`.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rabbitmq/node");
        let output = Command::new(script).arg("ctl").arg(self.folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn start_again(&self) {
        node(&["start"], self.folder.path());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        node(&["stop"], self.folder.path());
    }
}

fn node(arguments: &[&str], folder: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rabbitmq/node");
    let output = Command::new(script).args(arguments).arg(folder).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
