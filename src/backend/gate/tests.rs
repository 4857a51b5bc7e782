//! Turns, pauses and times to come back, by a paused clock.

use super::{breaker::FAILURES, *};

fn gate(concurrency: usize, queue: usize) -> Arc<Gate> {
    let vars = [
        ("API_URL", "http://api/".to_owned()),
        ("API_CONCURRENCY", concurrency.to_string()),
        ("API_QUEUE", queue.to_string()),
    ];
    let config = config::from_vars(vars.map(|(name, value)| (name.to_owned(), value)).into_iter()).unwrap();
    Arc::new(Gate::new(&config.backend, Arc::default()))
}

async fn client(gate: &Gate) -> Turn<'_> {
    gate.turn(Urgency::Client, Patience::Endless).await.unwrap()
}

/// Has somebody wait, who then says so; returns when it waits.
async fn wait(
    gate: &Arc<Gate>,
    urgency: Urgency,
    name: &'static str,
    told: &Arc<Mutex<Vec<&'static str>>>,
) -> tokio::task::JoinHandle<()> {
    let (gate, told) = (gate.clone(), told.clone());
    let waiting = tokio::spawn(async move {
        let turn = gate.turn(urgency, Patience::Endless).await.unwrap();
        told.lock().push(name);
        tokio::time::sleep(Duration::from_millis(10)).await;
        turn.end(Verdict::Fine);
    });
    tokio::task::yield_now().await;
    waiting
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_than_the_limit_run_and_the_urgent_ones_go_first_without_starving_the_others() {
    let gate = gate(1, 1000);
    let told = Arc::default();
    let running = client(&gate).await;
    let mut all = Vec::new();
    for name in ["b1", "b2"] {
        all.push(wait(&gate, Urgency::Background, name, &told).await);
    }
    for name in ["c1", "c2", "c3"] {
        all.push(wait(&gate, Urgency::Client, name, &told).await);
    }
    all.push(wait(&gate, Urgency::Urgent, "u1", &told).await);
    assert_eq!((gate.metrics.api_calls.get(), gate.metrics.api_waiting.get()), (1, 6));
    drop(running);
    for waiting in all {
        waiting.await.unwrap();
    }
    assert_eq!(*told.lock(), ["u1", "c1", "c2", "b1", "c3", "b2"]);
    assert_eq!((gate.metrics.api_calls.get(), gate.metrics.api_waiting.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_nobody_takes_is_passed_on() {
    let gate = gate(1, 1000);
    let told = Arc::default();
    let running = client(&gate).await;
    let gone = wait(&gate, Urgency::Client, "gone", &told).await;
    let stays = wait(&gate, Urgency::Client, "stays", &told).await;
    drop(running); // the turn has been given to the first one, which has not run since
    gone.abort();
    stays.await.unwrap();
    assert_eq!(*told.lock(), ["stays"]);
    client(&gate).await;
}

#[tokio::test(start_paused = true)]
async fn a_short_patience_is_refused_where_the_line_is_full_and_told_times_that_the_backend_can_follow() {
    let gate = gate(10, 100);
    gate.state.lock().call_seconds = 0.05; // 200 a second
    let _running: Vec<_> = futures::future::join_all((0..10).map(|_| client(&gate))).await;
    let told = Arc::default();
    for _ in 0..100 {
        wait(&gate, Urgency::Client, "", &told).await;
    }
    let mut seconds = Vec::new();
    for _ in 0..10_000 {
        let busy = gate.turn(Urgency::Client, Patience::Short).await.unwrap_err();
        seconds.push(busy.retry_after.as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    assert!(seconds[0] >= 1.0);
    for second in 2..48 {
        let count = seconds.iter().filter(|at| (f64::from(second)..f64::from(second + 1)).contains(*at)).count();
        assert!((150..=250).contains(&count), "{count} come back in second {second}");
    }
    assert!(*seconds.last().unwrap() < 53.0, "{:?}", seconds.last());
}

#[tokio::test(start_paused = true)]
async fn however_many_are_sent_away_nobody_is_told_to_stay_away_for_hours() {
    let gate = gate(1, 1);
    let _running = client(&gate).await;
    let told = Arc::default();
    wait(&gate, Urgency::Client, "", &told).await;
    for _ in 0..100_000 {
        let busy = gate.turn(Urgency::Client, Patience::Short).await.unwrap_err();
        assert!((1.0..=LONGEST_WAIT + 1.0).contains(&busy.retry_after.as_secs_f64()), "{busy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_fails_is_left_alone_and_then_tried_with_one_call() {
    let gate = gate(4, 100);
    let stop = CancellationToken::new();
    let keeper = gate.clone();
    let stopping = stop.clone();
    let keeping = tokio::spawn(async move { keeper.keep(stopping).await });
    for _ in 0..FAILURES {
        client(&gate).await.end(Verdict::Failed { pause: None });
    }
    assert_eq!(gate.metrics.api_paused.get(), 1);
    assert!(gate.turn(Urgency::Client, Patience::Short).await.is_err());
    for pause in [1, 2, 4] {
        let start = Instant::now();
        let probe = client(&gate).await; // waits
        let waited = start.elapsed().as_secs_f64() / f64::from(pause);
        assert!((0.5..=1.01).contains(&waited), "{waited} of {pause}");
        assert!(gate.turn(Urgency::Client, Patience::Short).await.is_err(), "one call at a time");
        probe.end(Verdict::Failed { pause: None });
    }
    drop(client(&gate).await); // says nothing
    client(&gate).await.end(Verdict::Fine);
    assert_eq!(gate.metrics.api_paused.get(), 0);
    let four = futures::future::join_all((0..4).map(|_| gate.turn(Urgency::Client, Patience::Short))).await;
    assert!(four.iter().all(Result::is_ok));
    stop.cancel();
    keeping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_client_does_not_have_the_backend_be_left_alone_and_several_do() {
    let gate = gate(4, 100);
    for _ in 0..10 * FAILURES {
        client(&gate).await.end(Verdict::FailedFor(1));
    }
    assert_eq!(gate.metrics.api_paused.get(), 0);
    for other in 0..FAILURES as u64 {
        client(&gate).await.end(Verdict::FailedFor(other));
    }
    assert_eq!(gate.metrics.api_paused.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_has_called_before_the_pause_says_nothing_of_what_is_after_it() {
    let gate = gate(4, 100);
    let (keeper, stop) = (gate.clone(), CancellationToken::new());
    let keeping = tokio::spawn(async move { keeper.keep(stop).await });
    let [given_up, late] = [client(&gate).await, client(&gate).await];
    client(&gate).await.end(Verdict::Failed { pause: Some(Duration::from_secs(1)) });
    let probe = client(&gate).await;
    drop(given_up);
    assert!(gate.turn(Urgency::Client, Patience::Short).await.is_err(), "there is a probe already");
    late.end(Verdict::Failed { pause: None });
    probe.end(Verdict::Fine);
    assert_eq!(gate.metrics.api_paused.get(), 0);
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn hooks_in_line_are_nothing_that_a_client_has_to_wait_for() {
    let gate = gate(1, 10);
    let running = client(&gate).await;
    let told = Arc::default();
    for _ in 0..1000 {
        wait(&gate, Urgency::Background, "", &told).await;
    }
    let gone = tokio::time::timeout(Duration::from_secs(1), gate.turn(Urgency::Client, Patience::Short)).await;
    assert!(gone.is_err(), "it was sent away");
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_backend_asks_for_is_kept_to() {
    let gate = gate(4, 100);
    let (keeper, stop) = (gate.clone(), CancellationToken::new());
    let keeping = tokio::spawn(async move { keeper.keep(stop).await });
    let start = Instant::now();
    let beside = client(&gate).await;
    client(&gate).await.end(Verdict::Failed { pause: Some(Duration::from_secs(7)) });
    beside.end(Verdict::Fine);
    let busy = gate.turn(Urgency::Client, Patience::Short).await.unwrap_err();
    assert!((7.0..9.0).contains(&busy.retry_after.as_secs_f64()), "{busy:?}");
    client(&gate).await.end(Verdict::Fine);
    assert_eq!(start.elapsed().as_secs(), 7);
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_want_to_wait_for_the_end_of_a_pause_is_told_when_it_begins() {
    let gate = gate(1, 1000);
    let check = || gate.turn(Urgency::Urgent, Patience::UnlessPaused);
    for _ in 1..FAILURES {
        client(&gate).await.end(Verdict::Failed { pause: None });
    }
    let turn = client(&gate).await;
    let (mut waiting, mut patient) = (Box::pin(check()), Box::pin(client(&gate)));
    assert!(futures::poll!(&mut waiting).is_pending() && futures::poll!(&mut patient).is_pending());
    turn.end(Verdict::Failed { pause: Some(Duration::from_secs(5)) });
    assert_eq!(waiting.await.err(), Some(Busy { retry_after: Duration::from_secs(5) }));
    assert_eq!(check().await.err(), Some(Busy { retry_after: Duration::from_secs(5) }));
    assert!(futures::poll!(&mut patient).is_pending());
    assert_eq!(gate.metrics.api_waiting.get(), 1);
}
