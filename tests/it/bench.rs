//! `high-templar bench` as a user runs it: against a server of its own, against servers that do it wrong, and against
//! nothing. Counts are checked, times are not.

use std::{
    net::SocketAddr,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::broadcast,
};
use tokio_tungstenite::{
    accept_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_high-templar"));
    command.env_clear().stdin(Stdio::null()).arg("bench").args(arguments);
    command
}

async fn run(arguments: &[&str]) -> Output {
    let mut command = bench(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The report, and the exit code that came with it.
async fn report(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(&[arguments, &["--json"]].concat()).await;
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)));
    (report, output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_its_own_is_measured_and_everything_arrives() {
    let setting = ["--connections", "12", "--subscriptions", "3", "--rooms", "4", "--publishers", "2", "--window", "5"];
    let rest = ["--seconds", "1", "--idle", "1", "--probe", "20", "--size", "20000"];
    let (report, code) = report(&[&setting[..], &rest].concat()).await;
    assert_eq!(code, Some(0), "{report}");
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}"));
    for (name, value) in
        [("connections", 12), ("subscriptions", 36), ("rooms", 4), ("size_bytes", 20_000), ("window", 5)]
    {
        assert_eq!(report[name], json!(value), "{name}");
    }
    for name in ["lost", "doubled", "out_of_order", "misdelivered", "closed"] {
        assert_eq!(report[name], json!(0), "{name}");
    }
    // Nine subscriptions are in each room; at both ends of the time, some triggers are with part of them.
    let (triggers, deliveries) = (number("/triggers"), number("/deliveries"));
    assert!(triggers > 0.0 && (deliveries - 9.0 * triggers).abs() <= 9.0 * 5.0, "{report}");
    let counted: f64 = report["histogram"].as_array().unwrap().iter().map(|bar| bar[1].as_f64().unwrap()).sum();
    assert_eq!(counted, deliveries);
    for above_zero in [
        "/deliveries_per_second",
        "/server_cpu_us_per_delivery",
        "/connect/per_second",
        "/connect/server_cpu_us_each",
        "/idle/server_user_bytes_per_connection",
        "/latency_ms/p50",
        "/probe/deliveries",
        "/client_busy",
    ] {
        assert!(number(above_zero) > 0.0, "{above_zero}: {report}");
    }
    assert!(
        number("/latency_ms/min") <= number("/latency_ms/p50")
            && number("/latency_ms/p50") <= number("/latency_ms/max")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_loop_publishes_what_it_was_told_and_rabbitmq_carries_it() {
    let amqp = crate::support::rabbitmq::shared();
    // An exchange of its own: other tests listen at the default one.
    let setting = ["--amqp", &amqp, "--exchange", "bench", "--connections", "3", "--rate", "100", "--seconds", "2"];
    let (report, code) = report(&setting).await;
    assert_eq!(code, Some(0), "{report}");
    let triggers = report["triggers"].as_f64().unwrap();
    assert!((150.0..250.0).contains(&triggers), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_text_and_a_signal_ends_it_and_its_server() {
    let output = run(&["--connections", "2", "--seconds", "1"]).await;
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    for line in ["target ", "connect ", "throughput ", "server CPU ", "latency ", "verdict      all right"] {
        assert!(said.lines().any(|said| said.starts_with(line)), "{line}: {said}");
    }
    assert!(said.contains('█'), "{said}");

    let long = bench(&["--connections", "2", "--seconds", "600"]).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&long);
    let path = format!("/proc/{pid}/task/{pid}/children", pid = pid.as_raw_nonzero());
    let child = || std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
    crate::support::eventually("it has started a server", async || !child().is_empty()).await;
    let child = child();
    kill_process(pid, Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || long.wait_with_output().unwrap()).await.unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), "high-templar: stopped\n"));
    assert!(!std::path::Path::new(&format!("/proc/{child}")).exists(), "its server is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_told_with_what_to_do() {
    let nobody = ["--url", "ws://127.0.0.1:1/ws/", "--trigger", "http://127.0.0.1:1/trigger/"];
    for (arguments, code, why) in [
        (&nobody[..], 1, "nothing listens at ws://127.0.0.1:1/ws/"),
        (&["--url", "ws://127.0.0.1:1/ws/"], 2, "--trigger URL or --amqp URL"),
        (&["--url", "wss://127.0.0.1:1/ws/", "--seconds", "0"], 2, "the instance itself"),
        (&["--rate", "5", "--window", "5"], 2, "cannot be used with"),
        (&["--connections", "999999"], 2, "connections are possible"),
    ] {
        let output = run(arguments).await;
        let said = text(&output.stderr);
        assert!(said.contains(why), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{said}");
    }
}

/// What a wrong server does: mostly to the second client's delivery of the fifth trigger.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Nothing,
    Drop,
    Double,
    Swap,
    Close,
    RefuseClients,
    RefuseRooms,
    RefuseTriggers,
}

/// Enough of a server for one room, with a fault.
async fn wrong_server(fault: Fault) -> (SocketAddr, SocketAddr) {
    let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let publishers = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = (clients.local_addr().unwrap(), publishers.local_addr().unwrap());
    let (triggers, _) = broadcast::channel::<Value>(10_000);
    let subscribed = triggers.clone();
    let count = Arc::new(AtomicU32::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = clients.accept().await {
            let triggers = subscribed.subscribe();
            let is_faulty = count.fetch_add(1, Ordering::Relaxed) == 1;
            tokio::spawn(serve(stream, triggers, fault, is_faulty));
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = publishers.accept().await {
            tokio::spawn(take_triggers(stream, triggers.clone(), fault));
        }
    });
    addresses
}

async fn serve(stream: TcpStream, mut triggers: broadcast::Receiver<Value>, fault: Fault, is_faulty: bool) {
    let mut socket = accept_async(stream).await.unwrap();
    let may_come = !matches!(fault, Fault::RefuseClients);
    socket.send(Message::text(json!({"is_authorized": may_come, "allowed_rooms": []}).to_string())).await.unwrap();
    let _subscribe = socket.next().await;
    let reply = match fault {
        Fault::RefuseRooms => json!({"code": "error", "message": "room-not-found"}),
        _ => json!({"code": "success"}),
    };
    socket.send(Message::text(reply.to_string())).await.unwrap();
    let mut held = None;
    let mut number = 0;
    loop {
        let trigger = tokio::select! {
            trigger = triggers.recv() => trigger.unwrap(),
            message = socket.next() => match message {
                Some(Ok(Message::Close(_))) | None | Some(Err(_)) => return,
                _ => continue,
            }
        };
        number += 1;
        let publish = Message::text(json!({"type": "publish", "data": trigger, "requestId": "0"}).to_string());
        match (fault, number) {
            (Fault::Drop, 5) if is_faulty => continue,
            (Fault::Swap, 5) if is_faulty => {
                held = Some(publish);
                continue;
            }
            (Fault::Double, 5) if is_faulty => socket.feed(publish.clone()).await.unwrap(),
            (Fault::Close, 5) if is_faulty => {
                let frame = CloseFrame { code: CloseCode::Library(3008), reason: "too slow".into() };
                socket.close(Some(frame)).await.unwrap();
                return;
            }
            _ => {}
        }
        socket.feed(publish).await.unwrap();
        if let Some(held) = held.take() {
            socket.feed(held).await.unwrap();
        }
        socket.flush().await.unwrap();
    }
}

/// Answers `POST /trigger/`, as often as it comes.
async fn take_triggers(stream: TcpStream, triggers: broadcast::Sender<Value>, fault: Fault) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        let is_end_of_head = line == "\r\n";
        line.clear();
        if !is_end_of_head {
            continue;
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let mut trigger: Value = serde_json::from_slice(&body).unwrap();
        let answer = match fault {
            Fault::RefuseTriggers => "HTTP/1.1 503 Later\r\nContent-Length: 9\r\n\r\ntry-later",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        let _ = triggers.send(trigger["data"].take());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_it_wrong_is_found_out() {
    let measure = async |fault: Fault| {
        let (clients, publishers) = wrong_server(fault).await;
        let (url, trigger) = (format!("ws://{clients}/ws/"), format!("http://{publishers}/trigger/"));
        let target = ["--url", &url, "--trigger", &trigger, "--connections", "3", "--seconds", "1", "--window", "3"];
        run(&[&target[..], &["--json", "--concurrency", "1"]].concat()).await
    };
    let (nothing, drop, double, swap, close) = tokio::join!(
        measure(Fault::Nothing),
        measure(Fault::Drop),
        measure(Fault::Double),
        measure(Fault::Swap),
        measure(Fault::Close)
    );
    let counts = |output: &Output| {
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        let counts = ["lost", "doubled", "out_of_order", "closed"].map(|name| report[name].as_u64().unwrap());
        (counts, output.status.code(), report)
    };
    for (output, expected, code) in
        [(&nothing, [0; 4], 0), (&drop, [1, 0, 0, 0], 1), (&double, [0, 1, 0, 0], 1), (&swap, [0, 0, 1, 0], 1)]
    {
        let (counts, found, report) = counts(output);
        assert_eq!((counts, found), (expected, Some(code)), "{report}");
    }
    let ([lost, doubled, out_of_order, closed], code, report) = counts(&close);
    assert!(lost > 0 && (doubled, out_of_order, closed, code) == (0, 0, 1, Some(1)), "{report}");
    assert_eq!(report["closings"], json!([{"code": 3008, "reason": "too slow", "connections": 1}]));

    let (clients, rooms, triggers) =
        tokio::join!(measure(Fault::RefuseClients), measure(Fault::RefuseRooms), measure(Fault::RefuseTriggers));
    for (output, why) in [
        (clients, "does not authorise"),
        (rooms, r#"into the room {"bench":"0"} ("room-not-found")"#),
        (triggers, "answered a trigger with 503 try-later"),
    ] {
        let said = text(&output.stderr);
        assert!(said.contains(why) && output.status.code() == Some(1), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_answer_in_an_apis_place() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let child = bench(&["--serve-api", &address]).stderr(Stdio::null()).spawn().unwrap();
    crate::support::eventually("it answers", async || {
        let Ok(mut stream) = TcpStream::connect(&address).await else { return false };
        stream.write_all(b"GET /any/bootstrap/ HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = [0; 1000];
        let read = stream.read(&mut answer).await.unwrap();
        text(&answer[..read]).ends_with("{\"allowed_rooms\":[{\"bench\":\"*\"}]}\r\n")
    })
    .await;
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
}
