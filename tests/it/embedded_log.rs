//! The embedded broker's file on disks that fail: nothing that was confirmed is lost, and readiness tells the truth.

use std::{fs, io::Write, path::PathBuf, process::Command};

use high_templar::config::Listen;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Client, StubBackend, TestServer, eventually, http, process::Running};

/// A file system in memory of so many KiB, where one may be mounted. Unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(kib: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={kib}k");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(folder)),
            _ => {
                println!("skipped: no file system can be mounted here");
                None
            }
        }
    }

    /// Writes a file until there is no room for more.
    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// A server's publishers, and what was confirmed to them.
struct Publisher<'l> {
    internal: &'l Listen,
    next: u64,
    confirmed: Vec<u64>,
}

impl<'l> Publisher<'l> {
    fn new(internal: &'l Listen) -> Self {
        Self { internal, next: 0, confirmed: Vec::new() }
    }

    /// Publishes a trigger of 20 kB with the next number; whether it was confirmed.
    async fn publish(&mut self) -> bool {
        let number = self.next;
        self.next += 1;
        let body = json!({"rooms": [{"target": "message"}], "data": {"number": number, "filler": "x".repeat(20_000)}});
        let reply = http::send(self.internal, "POST", "/trigger/", &[], body.to_string().as_bytes()).await;
        assert!(matches!(reply.status, 200 | 503), "{reply:?}");
        if reply.status == 200 {
            self.confirmed.push(number);
        }
        reply.status == 200
    }

    async fn is_ready(&self) -> bool {
        http::send(self.internal, "GET", "/readyz", &[], b"").await.status == 200
    }
}

/// A client that has subscribed, and the position at which it did; or that goes on at `since`.
async fn subscriber(public: &Listen, since: Option<&str>) -> (Client, String) {
    let mut client = Client::connect(public, "/ws/", &[("Sec-WebSocket-Protocol", "high-templar.v4")]).await;
    let welcome = client.next().await;
    assert_eq!(welcome["is_authorized"], json!(true), "{welcome}");
    let mut request = json!({"type": "subscribe", "requestId": "1", "room": {"target": "message"}});
    if let Some(since) = since {
        request["since"] = json!(since);
    }
    let reply = client.ask(request).await;
    if since.is_some() {
        assert_eq!(reply["recovered"], json!(true), "{reply}");
    }
    (client, reply["position"].as_str().unwrap().to_owned())
}

/// Reads publications up to the last one that was confirmed: all that were come once and in their order. What was refused may
/// come as well.
async fn expect(client: &mut Client, confirmed: &[u64]) {
    let mut numbers: Vec<u64> = Vec::new();
    while numbers.last() != confirmed.last() {
        let frame = client.next().await;
        assert_eq!(frame["type"], json!("publish"), "{frame:.300}");
        numbers.push(frame["data"]["number"].as_u64().unwrap());
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    numbers.retain(|number| confirmed.contains(number));
    assert_eq!(numbers, confirmed);
}

/// Publishes until it fails, then once `repair` has made room again; and starts the server anew.
async fn fails_once(
    running: Running,
    vars: &[(&str, &str)],
    fail: impl FnOnce(&Running),
    repair: impl FnOnce(&Running),
) {
    let mut publisher = Publisher::new(&running.internal);
    let (mut client, begun) = subscriber(&running.public, None).await;
    for _ in 0..20 {
        assert!(publisher.publish().await);
    }
    fail(&running);
    while publisher.publish().await {
        assert!(publisher.next < 5000, "it is never full");
    }
    eventually("it says so", async || !publisher.is_ready().await).await;
    for _ in 0..3 {
        assert!(!publisher.publish().await);
    }
    repair(&running);
    eventually("it is ready again", async || publisher.is_ready().await).await;
    for _ in 0..20 {
        assert!(publisher.publish().await);
    }
    expect(&mut client, &publisher.confirmed).await;
    let confirmed = publisher.confirmed;
    running.signal(Signal::KILL);
    let (_, log) = running.end();
    assert!(log.contains("EMBEDDED_LOG cannot be written") && log.contains("can be written again"), "{log}");
    let again = Running::start(vars).await;
    let (mut client, _) = subscriber(&again.public, Some(&begun)).await;
    expect(&mut client, &confirmed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_full_once_is_written_again() {
    let Some(disk) = SmallDisk::mount(16 << 10) else { return };
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let (url, log) = (backend.url(), disk.0.path().join("log"));
    let vars = [("API_URL", url.as_str()), ("EMBEDDED_LOG", log.to_str().unwrap())];
    let running = Running::start(&vars).await;
    fails_once(running, &vars, |_| disk.fill(), |_| fs::remove_file(disk.filler()).unwrap()).await;
}

fn limit_file_size(running: &Running, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(Pid::from_child(&running.child)), Resource::Fsize, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_the_size_of_files_is_a_full_disk_and_kills_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let (url, log) = (backend.url(), folder.path().join("log"));
    let vars = [("API_URL", url.as_str()), ("EMBEDDED_LOG", log.to_str().unwrap())];
    let running = Running::start(&vars).await;
    let fail = |running: &Running| limit_file_size(running, Some(log.metadata().unwrap().len()));
    fails_once(running, &vars, fail, |running| limit_file_size(running, None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_deleted_is_there_again_with_all_that_was_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let vars = [("EMBEDDED_LOG", path.to_str().unwrap())];
    let server = TestServer::with(&vars).await;
    let mut publisher = Publisher::new(&server.internal);
    let (mut client, begun) = subscriber(&server.public, None).await;
    for _ in 0..3 {
        assert!(publisher.publish().await);
        fs::remove_file(&path).unwrap();
        eventually("it is there again", async || path.exists()).await;
        assert!(publisher.publish().await);
        fs::remove_file(&path).unwrap();
        assert!(publisher.publish().await && path.exists());
    }
    expect(&mut client, &publisher.confirmed).await;
    let confirmed = publisher.confirmed;
    server.stop().await;
    let server = TestServer::with(&vars).await;
    let (mut client, _) = subscriber(&server.public, Some(&begun)).await;
    expect(&mut client, &confirmed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_gone_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (inner, moved) = (folder.path().join("inner"), folder.path().join("moved"));
    fs::create_dir(&inner).unwrap();
    let path = inner.join("log");
    let server = TestServer::with(&[("EMBEDDED_LOG", path.to_str().unwrap())]).await;
    let mut publisher = Publisher::new(&server.internal);
    let (mut client, _) = subscriber(&server.public, None).await;
    assert!(publisher.publish().await);
    fs::rename(&inner, &moved).unwrap();
    eventually("it is not ready", async || !publisher.is_ready().await).await;
    assert!(!publisher.publish().await);
    fs::rename(&moved, &inner).unwrap();
    eventually("it is ready again", async || publisher.is_ready().await).await;
    assert!(publisher.publish().await);
    expect(&mut client, &publisher.confirmed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_copy_that_is_put_back_is_told_to_clients() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("log"), folder.path().join("copy"));
    let vars = [("EMBEDDED_LOG", path.to_str().unwrap())];
    let server = TestServer::with(&vars).await;
    let mut publisher = Publisher::new(&server.internal);
    let (mut client, _) = subscriber(&server.public, None).await;
    assert!(publisher.publish().await);
    fs::copy(&path, &copy).unwrap();
    assert!(publisher.publish().await);
    expect(&mut client, &publisher.confirmed).await;
    let (late, lost) = subscriber(&server.public, None).await;
    drop(late);
    fs::rename(&copy, &path).unwrap();
    assert_eq!(client.next().await["type"], json!("resync"));
    eventually("it is ready again", async || publisher.is_ready().await).await;
    assert!(publisher.publish().await && publisher.publish().await);
    expect(&mut client, &publisher.confirmed[2..]).await;
    is_not_recovered(&server.public, &lost).await;
    // Nor when the server finds an earlier copy as it starts.
    fs::copy(&path, &copy).unwrap();
    assert!(publisher.publish().await);
    let (_, lost) = subscriber(&server.public, None).await;
    server.stop().await;
    fs::rename(&copy, &path).unwrap();
    let server = TestServer::with(&vars).await;
    let mut publisher = Publisher::new(&server.internal);
    assert!(publisher.publish().await && publisher.publish().await);
    is_not_recovered(&server.public, &lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_truncated_begins_anew_and_clients_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let server = TestServer::with(&[("EMBEDDED_LOG", path.to_str().unwrap())]).await;
    let mut publisher = Publisher::new(&server.internal);
    let (mut client, lost) = subscriber(&server.public, None).await;
    assert!(publisher.publish().await);
    expect(&mut client, &publisher.confirmed).await;
    fs::write(&path, "").unwrap();
    assert_eq!(client.next().await["type"], json!("resync"));
    eventually("it is ready again", async || publisher.is_ready().await).await;
    assert!(publisher.publish().await);
    expect(&mut client, &publisher.confirmed[1..]).await;
    is_not_recovered(&server.public, &lost).await;
}

/// Subscribes `since` a position behind which something else stands now than what was there.
async fn is_not_recovered(public: &Listen, since: &str) {
    let mut client = Client::connect(public, "/ws/", &[("Sec-WebSocket-Protocol", "high-templar.v4")]).await;
    let _welcome: Value = client.next().await;
    let request = json!({"type": "subscribe", "requestId": "1", "room": {"target": "message"}, "since": since});
    assert_eq!(client.ask(request).await["recovered"], json!(false), "{since}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_deleted_while_the_disk_is_full_is_there_again_with_all_that_was_confirmed() {
    let Some(disk) = SmallDisk::mount(16 << 10) else { return };
    let path = disk.0.path().join("log");
    let server = TestServer::with(&[("EMBEDDED_LOG", path.to_str().unwrap())]).await;
    let mut publisher = Publisher::new(&server.internal);
    let (mut client, begun) = subscriber(&server.public, None).await;
    for _ in 0..20 {
        assert!(publisher.publish().await);
    }
    expect(&mut client, &publisher.confirmed).await;
    disk.fill();
    fs::remove_file(&path).unwrap();
    eventually("it is not ready", async || !publisher.is_ready().await).await;
    assert!(!path.exists() && !disk.0.path().join("log.new").exists());
    fs::remove_file(disk.filler()).unwrap();
    eventually("it is ready again", async || publisher.is_ready().await).await;
    assert!(publisher.publish().await);
    let last = client.next().await;
    assert_eq!(last["type"], json!("publish"), "nobody has to fetch again: {last}");
    let (mut client, _) = subscriber(&server.public, Some(&begun)).await;
    expect(&mut client, &publisher.confirmed).await;
}
