//! RabbitMQ: the node that the test run has started, and nodes of a test's own, to be killed.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use high_templar::config::Uris;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

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

/// What a node is started with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings<'a> {
    /// Plugins to enable, separated by spaces: `rabbitmq_federation rabbitmq_shovel`. A start takes twice the time with any.
    pub plugins: &'a str,
    /// Further terms of the configuration: `{max_message_size, 1048576}`.
    pub config: &'a str,
}

impl Node {
    pub async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub async fn with(settings: Settings<'_>) -> Self {
        let folder = tempfile::Builder::new().prefix("ht-rabbit-").tempdir().unwrap();
        let vars = [("NODE_PLUGINS", settings.plugins), ("NODE_CONFIG", settings.config)];
        let url = run_with(&vars, &["start".as_ref(), folder.path().as_ref()]);
        declare_stream(&url).await;
        until_streams_are_noted(folder.path(), &url).await;
        Self { folder, url }
    }

    /// A command of `tests/rabbitmq/node` without arguments, as `pause`.
    pub fn control(&self, command: &str) {
        node(&[command], self.folder.path());
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.control("kill");
    }

    /// `rabbitmqctl`.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        ctl(self.folder.path(), arguments)
    }

    pub fn start_again(&self) {
        self.control("start");
    }

    /// Keeps a copy of the streams as they are, or would be after a crash.
    pub fn save_streams(&self) {
        self.control("save");
    }

    /// Puts the copy back while the node is down, so that what was appended since is lost.
    pub fn rewind_streams(&self) {
        self.control("rewind");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        node(&["stop"], self.folder.path());
    }
}

/// Three nodes of one test's own, in a cluster. Killed when dropped.
pub struct Cluster {
    folder: TempDir,
    pub urls: Vec<String>,
}

impl Cluster {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("ht-cluster-").tempdir().unwrap();
        let mut cluster = Self { folder, urls: Vec::new() };
        let first = cluster.node(0);
        cluster.urls.push(node(&["start"], &first));
        let joining = [1, 2].map(|index| {
            let (joining, first) = (cluster.node(index), first.clone());
            spawn_blocking(move || run(&["join".as_ref(), joining.as_ref(), first.as_ref()]))
        });
        for joined in joining {
            cluster.urls.push(joined.await.unwrap());
        }
        declare_stream(&cluster.urls[0]).await;
        for (index, url) in cluster.urls.iter().enumerate() {
            until_streams_are_noted(&cluster.node(index), url).await;
        }
        cluster
    }

    /// The URLs of all nodes, beginning with one of them.
    pub fn urls_from(&self, index: usize) -> String {
        let (behind, before) = self.urls.split_at(index);
        [before, behind].concat().join(",")
    }

    /// SIGKILL.
    pub async fn kill(&self, index: usize) {
        let folder = self.node(index);
        spawn_blocking(move || node(&["kill"], &folder)).await.unwrap();
    }

    /// `rabbitmqctl`.
    pub fn ctl(&self, index: usize, arguments: &[&str]) -> String {
        ctl(&self.node(index), arguments)
    }

    /// Starts one that was killed, and waits until it has its share of a stream again.
    pub async fn start_again(&self, index: usize, stream: &str) {
        let folder = self.node(index);
        spawn_blocking(move || node(&["start"], &folder)).await.unwrap();
        // It refuses consumers until then.
        eventually("the node has the stream", async || {
            let channel = channel_at(&self.urls[index]).await;
            channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
            let options = BasicConsumeOptions::default();
            channel.basic_consume(stream.into(), "".into(), options, FieldTable::default()).await.is_ok()
        })
        .await;
    }

    fn node(&self, index: usize) -> PathBuf {
        self.folder.path().join((index + 1).to_string())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let started: Vec<PathBuf> =
            (0..3).map(|index| self.node(index)).filter(|folder| folder.join("ports").exists()).collect();
        for command in ["kill", "stop"] {
            started.iter().for_each(|folder| drop(node(&[command], folder)));
        }
    }
}

async fn declare_stream(url: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel_at(url).await.queue_declare("first".into(), options, arguments).await.unwrap();
}

/// RabbitMQ writes down only after a while that it has streams at all; killed before that, it never finds them again.
async fn until_streams_are_noted(folder: &Path, url: &str) {
    let name = node_name(url);
    let names = ["data", &name, "coordination", &name, "names.dets"].iter().collect::<PathBuf>();
    let file = folder.join(names);
    eventually("streams are written down", async || {
        let noted = std::fs::read(&file).unwrap_or_default();
        noted.windows(25).any(|text| text == b"rabbit_stream_coordinator")
    })
    .await;
}

/// What the node calls itself.
pub fn node_name(url: &str) -> String {
    format!("hightemplar-{}@localhost", Uris::parse(url).unwrap().at(0).amqp().authority.port)
}

fn node(arguments: &[&str], folder: &Path) -> String {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).chain([folder.as_os_str()]).collect();
    run(&arguments)
}

fn ctl(folder: &Path, arguments: &[&str]) -> String {
    let arguments = ["ctl".as_ref(), folder.as_os_str()].into_iter().chain(arguments.iter().map(OsStr::new));
    run(&arguments.collect::<Vec<_>>())
}

fn run(arguments: &[&OsStr]) -> String {
    run_with(&[], arguments)
}

fn run_with(vars: &[(&str, &str)], arguments: &[&OsStr]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rabbitmq/node");
    let output = Command::new(script).args(arguments).envs(vars.iter().copied()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
