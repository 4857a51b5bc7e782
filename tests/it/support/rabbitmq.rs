//! RabbitMQ: the node that the test run has started, and nodes of a test's own, to be killed.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// The URL of the test run's own node.
pub fn shared() -> String {
    std::env::var("TEST_AMQP_URL")
        .expect("TEST_AMQP_URL is the URL of a RabbitMQ node for tests: run ./test, which starts one")
}

/// A node of one test's own. Stopped when dropped.
pub struct Node {
    folder: TempDir,
    pub url: String,
}

impl Node {
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("ht-rabbit-").tempdir().unwrap();
        let url = node(&["start"], folder.path());
        Self { folder, url }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        node(&["kill"], self.folder.path());
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
