//! The program itself: its command line, exit codes, signals and logs.

use std::{
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
    process::Output,
    time::Duration,
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use serde_json::json;

use crate::support::{
    Client, StubBackend,
    backend::Answer,
    eventually, http,
    process::{Running, program},
};

fn run(arguments: &[&str], vars: &[(&str, &str)]) -> Output {
    program().args(arguments).envs(vars.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_wrong_or_missing_variable_is_named_at_once() {
    let output = run(
        &[],
        &[("IDLE_TIMEOUT", "soon"), ("OUTBOX_LIMIT", "1KB"), ("LISTEN", "8000"), ("AMQP_URL", "http://u:secret@h")],
    );
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    for name in ["API_URL is not set", "IDLE_TIMEOUT must", "OUTBOX_LIMIT must", "LISTEN must", "AMQP_URL must"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn files_with_settings_are_checked_together_with_the_settings_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let [pipe, file] = ["pipe", "file"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    std::fs::write(&file, "API_URL=http://127.0.0.1:1/\nhunter2\nAPI_QUEUE=none\nDRAIN=1s\n=x\nDRAIN=late\n").unwrap();
    let said = |vars: &[(&str, &str)]| {
        let output = run(&[], vars);
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    for not_regular in ["/dev/full", "/dev/zero", pipe.as_str(), folder.path().to_str().unwrap()] {
        let said = said(&[("ENV_FILE", not_regular), ("CHANNELSTREAM_INI", not_regular), ("API_TIMEOUT", "bad")]);
        for problem in ["ENV_FILE", "CHANNELSTREAM_INI"] {
            assert!(said.contains(&format!("{problem} {not_regular} is not a regular file")), "{said}");
        }
        assert!(said.contains("API_TIMEOUT must") && !said.contains("not set"), "{said}");
    }
    let said = said(&[("ENV_FILE", &file), ("API_TIMEOUT", "bad")]);
    assert!(said.contains("has no NAME=value in lines 2, 5") && !said.contains("hunter2"), "{said}");
    for problem in ["API_QUEUE must", "DRAIN must", "API_TIMEOUT must"] {
        assert!(said.contains(problem), "{problem}: {said}");
    }
    assert!(!said.contains("API_URL"), "{said}");
}

#[test]
fn a_setting_that_is_no_text_is_told() {
    let broken = std::ffi::OsStr::from_bytes(b"http://\xff/");
    let output = program().env("API_URL", broken).env("DRAIN", "bad").output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("API_URL is not UTF-8") && said.contains("DRAIN must"), "{said}");
    assert!(!said.contains("API_URL is not set"), "{said}");
}

#[test]
fn an_internal_listener_that_others_can_reach_needs_a_token() {
    let vars = [("API_URL", "http://127.0.0.1:1/"), ("INTERNAL_LISTEN", "0.0.0.0:0")];
    let output = run(&[], &vars);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("INTERNAL_TOKEN is not set"));
}

#[test]
fn help_and_version_need_no_configuration() {
    let help = run(&["--help"], &[]);
    assert!(help.status.success());
    for word in ["serve", "check", "API_URL", "--version"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let version = run(&["--version"], &[]);
    assert_eq!(text(&version.stdout), format!("high-templar {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run(&["nonsense"], &[]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_it_found_and_fails_when_something_is_wrong() {
    let backend = StubBackend::answering(|_| Answer::Reply(403, String::new())).await;
    let url = backend.url();
    let free = [("LISTEN", "127.0.0.1:0"), ("INTERNAL_LISTEN", "127.0.0.1:0")];
    let good = run(&["check"], &[&free[..], &[("API_URL", &url)]].concat());
    let said = text(&good.stdout);
    assert!(good.status.success(), "{said}");
    assert!(said.contains("ok       backend: reached; a client without cookies is refused with 403"), "{said}");
    assert!(said.contains("ok       broker: embedded"), "{said}");

    let elsewhere = StubBackend::answering(|_| Answer::Reply(404, String::new())).await;
    let said = text(&run(&["check"], &[&free[..], &[("API_URL", &elsewhere.url())]].concat()).stdout);
    assert!(said.contains(&format!("with status 404 Not Found (GET {}bootstrap/)", elsewhere.url())), "{said}");

    let nobody = [("API_URL", "http://127.0.0.1:1/"), ("AMQP_URL", "amqp://u:secret@127.0.0.1:1")];
    let bad = run(&["check"], &[&free[..], &nobody].concat());
    let said = text(&bad.stdout);
    assert_eq!(bad.status.code(), Some(1), "{said}");
    assert!(said.contains("wrong    backend: backend could not be reached"), "{said}");
    assert!(said.contains("wrong    broker: RabbitMQ at 127.0.0.1:1 failed"), "{said}");
    assert!(!said.contains("secret"), "{said}");

    let reached =
        run(&["check"], &[&free[..], &[("API_URL", &url), ("AMQP_URL", &crate::support::rabbitmq::shared())]].concat());
    assert!(text(&reached.stdout).contains("exchange hightemplar"), "{}", text(&reached.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_a_running_server_from_another_program_at_its_address() {
    let backend = StubBackend::allowing(json!([])).await;
    let url = backend.url();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log").to_str().unwrap().to_owned();
    let running = Running::start(&[("API_URL", &url), ("EMBEDDED_LOG", &log)]).await;
    let (listen, internal) = (running.public.to_string(), running.internal.to_string());
    let vars = [("API_URL", url.as_str()), ("EMBEDDED_LOG", &log), ("LISTEN", &listen), ("INTERNAL_LISTEN", &internal)];
    let check = run(&["check"], &vars);
    let said = text(&check.stdout);
    assert!(check.status.success(), "{said}");
    for name in ["LISTEN", "INTERNAL_LISTEN"] {
        assert!(said.contains(&format!("ok       {name}: 127.0.0.1:")), "{said}");
    }
    assert!(
        said.contains("by a high-templar that is running") && said.contains("by a server that is running"),
        "{said}"
    );

    let other = backend.url().trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let vars = [("API_URL", url.as_str()), ("LISTEN", &other), ("INTERNAL_LISTEN", "127.0.0.1:0")];
    let check = run(&["check"], &vars);
    let said = text(&check.stdout);
    assert!(!check.status.success() && said.contains("by another program; set LISTEN"), "{said}");
    let serve = run(&[], &vars);
    let said = text(&serve.stderr);
    assert!(!serve.status.success() && said.contains("LISTEN cannot be used: cannot listen on"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_opens_the_embedded_log_as_a_server_does_and_leaves_nothing_behind() {
    let backend = StubBackend::allowing(json!([])).await;
    let url = backend.url();
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &std::path::Path| {
        let vars = [("LISTEN", "127.0.0.1:0"), ("INTERNAL_LISTEN", "127.0.0.1:0"), ("API_URL", &url)];
        let output = run(&["check"], &[&vars[..], &[("EMBEDDED_LOG", path.to_str().unwrap())]].concat());
        (output.status.success(), text(&output.stdout))
    };
    let (is_well, said) = check(&folder.path().join("none/log"));
    assert!(!is_well && said.contains("cannot be used: No such file"), "{said}");
    let other = folder.path().join("other");
    std::fs::write(&other, "this is no log").unwrap();
    let (is_well, said) = check(&other);
    assert!(!is_well && said.contains("EMBEDDED_LOG"), "{said}");
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "this is no log");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(check(&empty).0);
    let (is_well, said) = check(&folder.path().join("log"));
    assert!(is_well && said.contains("can be used"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert_eq!(empty.metadata().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_end_it_cleanly_and_a_second_signal_at_once() {
    let backend = StubBackend::allowing(json!([])).await;
    let url = backend.url();
    for signal in [Signal::TERM, Signal::INT] {
        let running = Running::start(&[("API_URL", &url)]).await;
        let mut client = Client::connect(&running.public, "/ws/", &[]).await;
        client.next().await;
        running.signal(signal);
        assert_eq!(client.close_code().await, 1001);
        drop(client);
        assert_eq!(running.end().0.code(), Some(0));
    }
    // A hook that hangs would keep it for the rest of its drain.
    let hanging = StubBackend::answering(|asked| match asked.line.starts_with("GET") {
        true => Answer::Reply(200, r#"{"allowed_rooms":[]}"#.to_owned()),
        false => Answer::Silence,
    })
    .await;
    let url = hanging.url();
    let vars = [("API_URL", url.as_str()), ("DRAIN", "10m"), ("API_TIMEOUT", "10m"), ("HOOK_DISCONNECT", "gone/")];
    let running = Running::start(&vars).await;
    let mut client = Client::connect(&running.public, "/ws/", &[]).await;
    client.next().await;
    running.signal(Signal::TERM);
    assert_eq!(client.close_code().await, 1001);
    eventually("the hook hangs", async || hanging.lines().iter().any(|line| line.contains("/gone/"))).await;
    running.signal(Signal::TERM);
    assert_eq!(running.end().0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_is_reached_over_tls_if_its_certificate_is_trusted() {
    let answer = || Answer::Reply(200, r#"{"allowed_rooms":[{"a":1}]}"#.to_owned());
    let (backend, certificate) = StubBackend::over_tls(move |_| answer()).await;
    let (_, other) = StubBackend::over_tls(move |_| answer()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authorities.pem");
    let url = backend.url().replace("http://127.0.0.1", "https://localhost");
    for (trusted, is_reached) in [(certificate, true), (other, false)] {
        std::fs::write(&path, trusted).unwrap();
        let running = Running::start(&[("API_URL", &url), ("SSL_CERT_FILE", path.to_str().unwrap())]).await;
        match Client::dial(&running.public, "/ws/", &[("Cookie", "a=1")]).await {
            Ok(mut client) => assert!(is_reached && client.next().await["is_authorized"] == json!(true)),
            Err(refused) => assert!(!is_reached && refused.is_for_now(), "{refused:?}"),
        }
    }
    assert_eq!(backend.lines(), ["GET /api/bootstrap/"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_certificates_serves_an_api_without_tls() {
    let backend = StubBackend::allowing(json!([])).await;
    let running = Running::start(&[("API_URL", &backend.url()), ("SSL_CERT_FILE", "/dev/null")]).await;
    let mut client = Client::connect(&running.public, "/ws/", &[]).await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
    let output =
        run(&[], &[("API_URL", "https://localhost:1/"), ("SSL_CERT_FILE", "/dev/null"), ("LISTEN", "127.0.0.1:0")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("ca-certificates"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_it_serves_and_when_it_stops() {
    let backend = StubBackend::allowing(json!([])).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let running = Running::start(&[("API_URL", &backend.url()), ("NOTIFY_SOCKET", path.to_str().unwrap())]).await;
    let mut told = [0; 200];
    let count = socket.recv(&mut told).unwrap();
    assert!(told[..count].starts_with(b"READY=1\n"), "{}", text(&told[..count]));
    running.signal(Signal::TERM);
    let count = socket.recv(&mut told).unwrap();
    assert_eq!(text(&told[..count]), "STOPPING=1");
    assert_eq!(running.end().0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_reaches_the_log_even_at_its_finest() {
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    for format in ["text", "json"] {
        let hook = ("HOOK_CONNECT", "online/");
        let url = backend.url();
        let amqp = crate::support::rabbitmq::shared();
        let vars = [
            ("API_URL", url.as_str()),
            ("AMQP_URL", &amqp),
            ("LOG", "trace"),
            ("LOG_FORMAT", format),
            ("INTERNAL_TOKEN", "s3cret-internal"),
            ("RESUME_SECRET", "s3cret-resume-secret"),
            ("HOOK_DISCONNECT", "offline/"),
            hook,
        ];
        let running = Running::start(&vars).await;
        let headers = [("Cookie", "sessionid=s3cret-cookie; csrftoken=s3cret-csrf")];
        let mut client =
            Client::connect(&running.public, "/ws/?token=s3cret-token&session=s3cret-query", &headers).await;
        client.next().await;
        client.subscribe("1", json!({"target": "message"})).await;
        let token = [("Authorization", "Bearer s3cret-internal")];
        for body in [&br#"{"rooms":[{"target":"message"}],"data":"s3cret-payload"}"#[..], b"s3cret-payload"] {
            http::send(&running.internal, "POST", "/trigger/", &token, body).await;
        }
        assert_eq!(client.next().await["data"], json!("s3cret-payload"));
        client.send_text("s3cret-message").await;
        client.next().await;
        client.close().await;
        let offer = [("Sec-WebSocket-Protocol", "high-templar.v4")];
        let mut client = Client::connect(&running.public, "/ws/?token=s3cret-token", &offer).await;
        client.next().await;
        for token in ["s3cret-new-token", "s3cret-line\n", "s3cret-again"] {
            client.ask(json!({"type": "authenticate", "requestId": "1", "params": {"token": token}})).await;
        }
        let message = br#"{"action":"reauthorize","all":true}"#;
        http::send(&running.internal, "POST", "/control/", &token, message).await;
        assert_eq!(client.next().await["type"], json!("ticket")); // when the API has been asked
        client.close().await;
        running.signal(Signal::TERM);
        let (_, log) = running.end();
        assert!(log.len() > 1000, "a log that says nothing proves nothing");
        // The broker's password is "guest", here as the library spells bytes.
        let is_secret = |line: &&str| line.contains("s3cret") || line.contains("103, 117, 101, 115, 116");
        if let Some(line) = log.lines().find(is_secret) {
            panic!("{line}");
        }
        if format == "json" {
            for line in log.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_answers_with_a_page_is_told_in_a_few_lines_however_many_clients_come() {
    let backend = StubBackend::answering(|_| Answer::Reply(200, "<html>Please log in.</html>".to_owned())).await;
    let running = Running::start(&[("API_URL", &backend.url())]).await;
    for number in 0..50 {
        let mut client = Client::connect(&running.public, "/ws/", &[("Cookie", &format!("user={number}"))]).await;
        assert_eq!(client.next().await, json!({"is_authorized": false}));
    }
    running.signal(Signal::TERM);
    let (_, log) = running.end();
    let lines = log.lines().filter(|line| line.contains("WARN") && line.contains("HTML page")).count();
    assert!((1..=5).contains(&lines), "{log}");
    assert!(log.contains(&format!("suppressed={}", 50 - lines)), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_env_file_of_3_1_works_as_it_is_and_the_log_says_what_came_from_where() {
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env");
    let amqp = high_templar::config::Uris::parse(&crate::support::rabbitmq::shared()).unwrap();
    let file = format!(
        "# 3.1\nAPP_URL=https://app.example.org\nBINDER_INTERNAL={}\nRABBITMQ_HOST={}\nRABBITMQ_USERNAME=guest\n\
         export RABBITMQ_PASSWORD='guest'\nLOGFILE_PATH=/tmp/x\nLOGFILE_LEVEL=DEBUG\n",
        backend.url(),
        amqp.at(0).host(),
    );
    std::fs::write(&path, file).unwrap();
    let running = Running::start(&[("ENV_FILE", path.to_str().unwrap())]).await;
    let headers = [("Origin", "https://any.example")];
    let mut client = Client::connect(&running.public, "/ws/?session_token=st", &headers).await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
    eventually("the hook is posted", async || backend.lines().contains(&"POST /api/user/notify_online/".to_owned()))
        .await;
    let asked = backend.asked().remove(0);
    assert_eq!(asked.header("x-session-token"), Some("st"));
    assert_eq!(asked.header("referer"), Some("https://app.example.org/api/"));
    running.signal(Signal::TERM);
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(0));
    for said in [
        "API_URL is taken from BINDER_INTERNAL",
        "RABBITMQ_HOST",
        "WILDCARD_DISPATCH is exact",
        "Origin of a handshake is not checked",
        "HOOK_DISCONNECT is user/notify_offline/",
        ".env",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert!(log.contains("wildcard_dispatch=Exact"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_why_a_user_may_not_join_a_room() {
    let answer = json!({"allowed_rooms": [{"customer": "7"}], "user": {"data": {"id": 17}}}).to_string();
    let backend = StubBackend::answering(move |_| Answer::Reply(200, answer.clone())).await;
    let api = backend.url();
    let running = Running::start(&[("API_URL", &api), ("INTERNAL_TOKEN", "secret")]).await;
    let mut client = Client::connect(&running.public, "/ws/", &[]).await;
    client.next().await;
    client.subscribe("mine", json!({"customer": "7"})).await;
    let internal = running.internal.to_string();
    let explain = async |arguments: &[&str], token: &str| {
        let mut command = program();
        command.arg("explain").args(arguments);
        command.envs([("API_URL", api.as_str()), ("INTERNAL_LISTEN", &internal), ("INTERNAL_TOKEN", token)]);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let output = explain(&["--user", "17", r#"{"customer":"8"}"#], "secret").await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", text(&output.stderr));
    assert!(
        said.contains("(user 17): not allowed: the nearest allowed room is") && said.contains("another value"),
        "{said}"
    );
    let output = explain(&["--user", "17", r#"{"customer":"7"}"#], "secret").await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("allowed: an allowed room covers it") && said.contains(r#""mine""#), "{said}");
    for (arguments, token, wrong) in [
        (&["--user", "18", "{}"][..], "secret", "no connection on this instance"),
        (&["--user", "17", "[]"], "secret", "malformed-room"),
        (&["--user", "17", "{}"], "other", "not-authorized"),
        (&["--connection", "00000000-0000-0000-0000-000000000000", "{}"], "secret", "connection-not-found"),
    ] {
        let output = explain(arguments, token).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(wrong), "{}", text(&output.stderr));
    }
}
